"""What the first screen says: which, by how much, how sure, at what cost, what next."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from tunewright.errors import counted
from tunewright.evaluation.reason import Verdict
from tunewright.evaluation.statistics import ALPHA
from tunewright.report import numbers, text
from tunewright.runs.comparison import Candidate, Check, Comparison, Decision, Pair
from tunewright.runs.record import RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What to do next."""

    sentence: Markup
    command: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstScreen:
    """The decision as a reader who has one minute needs it."""

    headline: str
    subline: str
    rival: Pair | None
    """The recommended candidate minus the best, or where it is the best, minus the next; None where it stands alone."""
    said: str
    """What the pair shows, in words."""
    steps: tuple[Step, ...]
    predict: str | None
    """The command that answers rows with it; None where there is no adapter of it."""
    warnings: tuple[Check, ...]
    """Failed checks that touch the recommended candidate, or all."""


def first_screen(run: RunRecord, folder: str) -> FirstScreen:
    """The first screen of a run.

    Args:
        run: The run.
        folder: Where its reader finds it, for the commands.
    """
    rival = _rival(run.comparison, run.winner)
    headline, subline = _headline(run)
    return FirstScreen(
        headline=headline,
        subline=subline,
        rival=rival,
        said="" if rival is None else _said(rival, run.comparison.decision),
        steps=tuple(_steps(run, folder)),
        predict=None if run.winner is None else _predict(run.winner, folder),
        warnings=failed(run.comparison, None if run.winner is None else run.winner.id),
    )


def failed(comparison: Comparison, candidate: str | None = None) -> tuple[Check, ...]:
    """The failed checks that touch a candidate, those that touch all included; of no candidate, all that failed."""
    found = (check for check in comparison.checks if not check.passed)
    return tuple(c for c in found if candidate is None or not c.touches or candidate in c.touches)


def turned(pair: Pair) -> Pair:
    """The same pair of artefacts seen from the other side."""
    return Pair(
        a=pair.b, b=pair.a, difference=-pair.difference, low=-pair.high, high=-pair.low,
        p_value=pair.p_value, p_adjusted=pair.p_adjusted,
    )  # fmt: skip


def is_shown(pair: Pair) -> bool:
    """Whether the two are shown to differ, over all pairs of the run."""
    return pair.p_adjusted < ALPHA


def found_folder(command: str, name: str) -> str:
    """Where the reader finds a run folder: as typed with `--out`, else where `compare` puts it."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    typed = [word for flag, word in pairwise(words) if flag == "--out"]
    typed += [word.removeprefix("--out=") for word in words if word.startswith("--out=")]
    return typed[-1] if typed else f"runs/{name}"


def _headline(run: RunRecord) -> tuple[str, str]:
    decision, winner = run.comparison.decision, run.winner
    if decision is None:
        return "Nothing to recommend", "No candidate was finished"
    if winner is None and decision.verdict == Verdict.NOTHING_WORKS:
        return "Nothing learned is shown to work", "And the floor fails the requirements"
    if winner is None:
        return "No candidate meets what is required", decision.verdict
    name = text.line(winner.id)
    if decision.verdict == Verdict.NOTHING_WORKS:
        kept = f"stay with {name}" if winner.is_floor else f"{name}, until more rows tell"
        return "Nothing learned is shown to work", f"Recommended: {kept}"
    are_all = all(candidate.status == "ok" for candidate in run.comparison.candidates)
    return f"Recommended: {name}", decision.verdict + ("" if are_all else ", of those that were measured")


def _rival(comparison: Comparison, winner: Candidate | None) -> Pair | None:
    """The pair that matters most to whoever takes the winner."""
    if winner is None or comparison.decision is None:
        return None
    mine = [turned(pair) if pair.b == winner.id else pair for pair in comparison.pairs if winner.id in (pair.a, pair.b)]
    against_best = [pair for pair in mine if pair.b == comparison.decision.best]
    return against_best[0] if against_best else min(mine, key=lambda pair: pair.difference, default=None)


def _said(pair: Pair, decision: Decision | None) -> str:
    if decision is not None and decision.verdict == Verdict.CHEAPER:
        return f"shown to lose less than {counted(decision.margin, 'point')}, and cheaper"
    if not is_shown(pair):
        alone = "by itself; over all pairs " if pair.low > 0 or pair.high < 0 else ""
        return f"{alone}not shown to differ, which does not mean equal"
    return "shown to be better" if pair.difference > 0 else "shown to be lower"


def _steps(run: RunRecord, folder: str) -> Iterator[Step]:
    comparison, winner, decision = run.comparison, run.winner, run.comparison.decision
    again = comparison.provenance.command
    if decision is None:
        yield Step(sentence=Markup("Raise the budget or choose other methods, and repeat:"), command=again)
    elif winner is None:
        yield Step(sentence=Markup("Relax a requirement, or add methods or trials, and repeat:"), command=again)
    elif decision.verdict == Verdict.NOTHING_WORKS:
        if not winner.is_floor:
            yield _take(winner, folder)
        yield _find_out(comparison, decision, winner)
    else:
        yield _take(winner, folder)
        nearest = next((item for item in decision.not_separated if item.rows_needed is not None), None)
        if nearest is not None:
            more = _more(nearest.rows_needed, comparison.task.n_test)
            yield Step(sentence=Markup("To settle it against {}, {}.").format(text.line(nearest.id), more))


def _take(winner: Candidate, folder: str) -> Step:
    name, command = text.line(winner.id), _predict(winner, folder)
    if winner.family == "outside":
        return Step(sentence=Markup("Keep {}: it answers already, outside of this run.").format(name))
    if command is None:
        return Step(sentence=Markup("No adapter of {} was kept: repeat with <code>--folds 1</code>.").format(name))
    return Step(sentence=Markup("Answer the rows of <code>FILE</code> with it:"), command=command)


def _predict(winner: Candidate, folder: str) -> str | None:
    seed = winner.shipped_seed
    if winner.family == "outside" or seed is None:
        return None
    adapter = shlex.quote(f"{folder}/adapters/{text.line(winner.id, 200)}/seed-{seed}")
    return f"tunewright predict {adapter} FILE"


def _find_out(comparison: Comparison, decision: Decision, winner: Candidate) -> Step:
    """What to do where nothing learned is shown to work."""
    names = {candidate.id for candidate in comparison.candidates if candidate.is_floor} | {decision.best}
    ship = Markup("Ship nothing that was learned. ") if winner.is_floor else Markup("Do not rely on it yet. ")
    needed = next((item.rows_needed for item in decision.not_separated if item.id in names), None)
    if needed is None and not comparison.task.labels:
        advice = ship + Markup(
            "Read some texts below by hand: can the target be told from the input?"
            " Give a larger base or more training rows, and repeat:"
        )
    elif needed is None:
        advice = ship + Markup(
            "Read some rows by hand: are the labels right, and can they be told from the"
            " text? Say what each label means with <code>--descriptions</code>, add training rows, and repeat:"
        )
    else:
        advice = ship + Markup("To see whether {} is better, {}; then repeat:").format(
            text.line(decision.best), _more(needed, comparison.task.n_test)
        )
    return Step(sentence=advice, command=comparison.provenance.command)


def _more(needed: int | None, present: int) -> Markup:
    """How many rows would settle a question."""
    assert needed is not None
    more = Markup("get about {} more test rows (about {} in all)")
    return more.format(numbers.count(max(1, needed - present)), numbers.count(needed))
