"""What judgements of pairs of answers come to: who is preferred, how surely, and whether the judge can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.errors import counted
from tunewright.evaluation.statistics import ALPHA, mcnemar, wilson
from tunewright.runs.judgements import Judgement
from tunewright.types import Estimate

_FEW = 5
"""Answers below which a judge that says the same each time may have meant it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Of one judge between two candidates."""

    judge: str
    a: str
    b: str
    wins: int
    """Rows on which a is preferred, in both orders where it was asked in both."""
    losses: int
    ties: int
    """Neither, or the one in one order and the other in the other."""
    agreement: Estimate | None
    """Share of the rows asked in both orders on which the judge agrees with itself; None where there are none."""
    first: Estimate | None
    """Share of its choices that fell on the answer shown first; None without choices."""

    @property
    def share(self) -> Estimate | None:
        """Of a, among the rows that are decided; None where none is."""
        decided = self.wins + self.losses
        return wilson(self.wins, decided) if decided else None

    @property
    def p_value(self) -> float:
        """Sign test: of so uneven a split of the decided rows, were both preferred alike."""
        return float(mcnemar(self.wins, self.losses))

    @property
    def trouble(self) -> str:
        """Why the judge cannot be relied upon; empty where nothing speaks against it."""
        if self.first is None or self.first.n < _FEW:
            return ""
        if self.first.value in (0.0, 1.0):
            place = "A" if self.first.value == 1 else "B"
            return f"it always says {place}, whatever the answers: its judgements mean nothing"
        if self.agreement is not None and not self.first.low <= 1 / 2 <= self.first.high:
            place = "first" if self.first.value > 1 / 2 else "second"
            return f"it leans to the answer shown {place}; such rows are ties where it was asked in both orders"
        return ""

    def sentences(self) -> list[str]:
        """What is to be said of it."""
        n = self.wins + self.losses + self.ties
        counts = f"{self.a} better on {self.wins}, {self.b} on {self.losses}, neither on {self.ties} of {n}"
        said = [f"{self.judge}: {counts}."]
        if self.share is not None:
            between = f"95% interval {100 * self.share.low:.1f} to {100 * self.share.high:.1f}%"
            shown = "preferred" if self.p_value < ALPHA else "not shown to be preferred to the other"
            better = self.a if self.wins >= self.losses else self.b
            said.append(
                f"{self.a} has {100 * self.share.value:.1f}% of the {self.share.n} decided ({between}; sign test "
                f"p = {self.p_value:.3g}): {better} is {shown}."
            )
        if self.agreement is not None:
            low, high = 100 * self.agreement.low, 100 * self.agreement.high
            said.append(
                f"It agrees with itself on {100 * self.agreement.value:.1f}% of {counted(self.agreement.n, 'row')} "
                f"asked in both orders (95% interval {low:.1f} to {high:.1f}%)."
            )
        return [*said, *([f"Warning: {self.trouble}."] if self.trouble else [])]


def preferences(judgements: Sequence[Judgement]) -> tuple[Preference, ...]:
    """One for each judge and pair of candidates, in the order of their first judgement."""
    groups: dict[tuple[str, frozenset[str]], list[Judgement]] = {}
    for each in judgements:
        groups.setdefault((each.judge, frozenset(each.shown)), []).append(each)
    return tuple(_preference(judge, sorted(pair), found) for (judge, pair), found in groups.items())


def _preference(judge: str, pair: Sequence[str], judgements: Sequence[Judgement]) -> Preference:
    once = {(each.row, each.shown): each for each in judgements}.values()
    rows: dict[str, dict[tuple[str, str], str | None]] = {}
    for each in once:
        rows.setdefault(each.row, {})[each.shown] = each.preferred
    votes = [set(by_order.values()) for by_order in rows.values()]
    agreed = [next(iter(vote)) if len(vote) == 1 else None for vote in votes]
    wins, losses = (sum(who == candidate for who in agreed) for candidate in pair)
    twice = [vote for vote, by_order in zip(votes, rows.values(), strict=True) if len(by_order) == 2]
    choices = [each.choice for each in once if each.choice != "tie"]
    return Preference(
        judge=judge,
        a=pair[0],
        b=pair[1],
        wins=wins,
        losses=losses,
        ties=len(rows) - wins - losses,
        agreement=wilson(sum(len(vote) == 1 for vote in twice), len(twice)) if twice else None,
        first=wilson(choices.count("A"), len(choices)) if choices else None,
    )
