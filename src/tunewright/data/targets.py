"""Rows whose answer is a text: what is refused, and all that is right for one input brought together."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

from tunewright.data.formats import clip
from tunewright.errors import DataError, counted
from tunewright.types import Example, Notice

MAX_DEV = 100
"""Dev rows: every epoch of every trial answers each of them token by token."""

_FEW = 20
"""Rows for each distinct target from which they look like labels."""


def check_targets(examples: Sequence[Example], path: str) -> None:
    """Refuses training rows with nothing to learn.

    Raises:
        DataError: All have the same target.
    """
    targets = {example.target for example in examples}
    if len(targets) < 2:
        raise DataError(
            f"{path}: only one target in the training rows: {clip(str(next(iter(targets))))!r}. At least two are "
            "needed. Add rows with others, or choose another column with --target."
        )


def check_inputs(examples: Sequence[Example], groups: Sequence[int], splits: Sequence[str], path: str) -> None:
    """Refuses rows of too few different inputs to be split.

    Raises:
        DataError: With their number and the need.
    """
    distinct = len(set(groups))
    if distinct < len(splits):
        raise DataError(
            f"{path}: {counted(len(examples), 'row')} but only {counted(distinct, 'different input')}; need "
            f"{len(splits)}, one each for {', '.join(splits)}. Different means by more than case, punctuation and "
            "spaces. Add rows, or give the splits as files with --dev and --test."
        )


def can_split(groups: Sequence[int], num_splits: int) -> bool:
    """Whether groups that stay together leave something for every split; not where one holds most of the rows."""
    sizes = Counter(groups)
    return len(sizes) >= num_splits and 2 * max(sizes.values()) <= len(groups)


def by_input(examples: Sequence[Example], columns: Sequence[str] = ()) -> tuple[Example, ...]:
    """One row for each input, the first, with the targets of all its rows as references.

    Args:
        examples: Rows.
        columns: That are part of the input beside the texts.
    """
    found: dict[tuple[str | None, ...], list[Example]] = {}
    for example in examples:
        more = (example.fields[column] for column in columns)
        found.setdefault((example.text.strip(), example.text_pair, *more), []).append(example)
    return tuple(
        dataclasses.replace(rows[0], references=tuple(dict.fromkeys(str(row.target) for row in rows)))
        for rows in found.values()
    )


def limit_dev(dev: Sequence[Example]) -> tuple[tuple[Example, ...], list[Notice]]:
    """At most `MAX_DEV` rows, evenly spread, and what is said of it."""
    if len(dev) <= MAX_DEV:
        return tuple(dev), []
    kept = tuple(dev[k * len(dev) // MAX_DEV] for k in range(MAX_DEV))
    message = f"{MAX_DEV} of {len(dev)} dev inputs are used: each epoch answers every one of them token by token."
    return kept, [Notice(code="dev-rows", message=message, count=MAX_DEV)]


def target_notices(train: Sequence[Example], judged: Sequence[Example]) -> list[Notice]:
    """How many references an input has; and said where the targets look like labels.

    Args:
        train: Training rows.
        judged: Test rows, one for each input.
    """
    notices = []
    num_references = sum(len(example.references) for example in judged)
    if num_references > len(judged):
        inputs = counted(len(judged), "test input has", "test inputs have")
        message = f"{inputs} {num_references} references; an answer is held against all of its own."
        notices.append(Notice(code="references", message=message, count=num_references))
    distinct = len({example.target for example in train})
    if distinct * _FEW <= len(train):
        message = (
            f"{len(train)} training rows have only {distinct} different targets: if these are labels, "
            "--task classify compares their probabilities and trains faster."
        )
        notices.append(Notice(code="few-targets", message=message, count=distinct))
    return notices
