"""`tunewright judge`: two candidates' answers side by side, without names, for a person or a model to choose from."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunewright.errors import ConfigError, RunError, counted, unknown

if TYPE_CHECKING:
    from tunewright.runs.judgements import Judgement
    from tunewright.runs.record import RunRecord
    from tunewright.types import Example

_KEYS = {"a": "A", "b": "B", "t": "tie", "tie": "tie"}
_QUIT = ("q", "quit")
_HELP = "Keys: a, b, t for a tie, q to stop; the same call goes on later."


def judge(
    run: Annotated[Path, typer.Argument(help="run folder")],
    pairs: Annotated[int, typer.Option(help="test rows to judge, those of earlier calls included", metavar="N")] = 50,
    candidates: Annotated[
        str | None, typer.Option(help="two of them; the recommended and the best other when absent", metavar="A,B")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="a model that judges instead of you: name or folder")] = None,
) -> None:
    """Which of two candidates' answers is better: asked blind, of you or of a model."""
    from tunewright.evaluation.preference import preferences
    from tunewright.report.build import build_report
    from tunewright.runs import judgements
    from tunewright.runs.record import read

    if pairs < 1:
        raise ConfigError(f"`pairs` must be at least 1. Got {pairs}.")
    record = read(run)
    pair = _pair(record, candidates)
    who = judgements.HUMAN if judge is None else judge
    path = judgements.judgements_file(run, pair, who)
    rows, num_same = _rows(record, pair)
    known = {(each.row, each.shown) for each in judgements.read(path) if each.judge == who}
    done = {row for row, orders in Counter(row for row, _ in known).items() if orders == (1 if judge is None else 2)}
    open_rows = [row for row in rows[:pairs] if row.id not in done]
    print(f"{len(rows)} of {len(record.rows)} test rows have different answers; the other {num_same} tell nothing.")
    found = _asked(record, pair, open_rows) if judge is None else _by_model(record, pair, open_rows, judge)
    for each in found:
        if (each.row, each.shown) not in known:  # the first order of a row at which an earlier call was ended
            judgements.add(path, each)
    every = judgements.read(path)
    if not every:
        print("Nothing was judged.")
        return
    for preference in preferences(every):
        print("\n".join(preference.sentences()))
    build_report(run)
    print(f"Stored: {path}")


def _pair(record: "RunRecord", given: str | None) -> tuple[str, str]:
    """The two candidates.

    Raises:
        ConfigError: Not two.
        RunError: None of that name has answers, or there are no two.
    """
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        for name in names:
            if name not in record.answers:
                raise RunError(unknown("candidate", name, record.answers))
        if len(set(names)) != 2 or len(names) != 2:
            raise ConfigError(f"`candidates` must name two. Got {given!r}. Write --candidates lora,few-shot.")
        return names[0], names[1]
    measured = [c for c in record.comparison.candidates if c.test is not None and c.id in record.answers]
    measured.sort(key=lambda c: (c is not record.winner, -c.test.value if c.test is not None else 0.0))
    if len(measured) < 2:
        raise RunError(f"{record.folder} has no two candidates with answers. Compare more methods.")
    return measured[0].id, measured[1].id


def _rows(record: "RunRecord", pair: tuple[str, str]) -> tuple[list["Example"], int]:
    """Test rows with different answers, in an order that depends on the run alone; and how many have the same."""
    first, second = (dict(zip((row.id for row in record.rows), record.given(who), strict=True)) for who in pair)
    different = [row for row in record.rows if first[row.id].split() != second[row.id].split()]
    return sorted(different, key=lambda row: _drawn(record, row, "order")), len(record.rows) - len(different)


def _drawn(record: "RunRecord", row: "Example", what: str) -> bytes:
    """As good as random, and the same in each call."""
    return hashlib.sha256(f"{record.comparison.provenance.seed}/{what}/{row.id}".encode()).digest()


def _shown(record: "RunRecord", pair: tuple[str, str], row: "Example") -> tuple[str, str]:
    """Which candidate stands as A and which as B."""
    ordered = sorted(pair)
    return (ordered[0], ordered[1]) if _drawn(record, row, "sides")[0] % 2 else (ordered[1], ordered[0])


def _asked(record: "RunRecord", pair: tuple[str, str], rows: list["Example"]) -> Iterator["Judgement"]:
    """What the person at the terminal chooses, until they stop."""
    from tunewright.report.text import clean
    from tunewright.runs.judgements import HUMAN, Judgement
    from tunewright.types import whole_text

    print(_HELP)
    for number, row in enumerate(rows, 1):
        shown = _shown(record, pair, row)
        answers = [clean(record.answers[who][row.id]) for who in shown]
        print(f"\n--- {number} of {len(rows)} ---\n{clean(whole_text(row))}\n\nA: {answers[0]}\n\nB: {answers[1]}\n")
        choice = _key()
        if choice is None:
            return
        yield Judgement(row=row.id, judge=HUMAN, shown=shown, choice=choice)  # type: ignore[arg-type]


def _key() -> str | None:
    """The choice; None to stop, as at the end of the input."""
    while True:
        print("Better: a, b, t, q? ", end="", flush=True)
        line = sys.stdin.readline()
        key = line.strip().casefold()
        if not line or key in _QUIT:
            print()
            return None
        if key in _KEYS:
            return _KEYS[key]
        print(_HELP)


def _by_model(record: "RunRecord", pair: tuple[str, str], rows: list["Example"], model: str) -> Iterator["Judgement"]:
    """A model's choices, each row in both orders."""
    from tunewright.runs.judgements import Judgement
    from tunewright.tuning.judge import Judge  # torch
    from tunewright.types import whole_text

    if not rows:
        return
    asks, num_cut = Judge(model), 0
    for row in rows:
        shown = _shown(record, pair, row)
        orders = [shown, (shown[1], shown[0])]
        text, answers = whole_text(row), {who: record.answers[who][row.id] for who in pair}
        choices = asks([(text, answers[first], answers[second]) for first, second in orders])
        num_cut += None in choices
        for order, choice in zip(orders, choices, strict=True):
            if choice is not None and None not in choices:
                yield Judgement(row=row.id, judge=model, shown=order, choice=choice)
    if num_cut:
        said = counted(num_cut, "row does not fit", "rows do not fit")
        print(f"{said} in the context of {model} with both answers: left out.")
