"""Labels that are chosen after reasoning: a base writes how it comes to an answer, and phrases are scored behind that.

The choice is constrained, so that no label is illegal. Of several drawn reasonings the probabilities are averaged, a
vote in which each says how sure it is (Wang et al. 2023, section 2).

Shapes: B rows, S samples of a row, D width, F phrases, E = D + F.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from tunewright.backbones.base import Encoding, Generation, Row, row_generator


class Writer(Protocol):
    """What is asked of the base."""

    @property
    def width(self) -> int: ...
    @property
    def is_here(self) -> bool: ...
    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]: ...
    def generate(
        self, rows: Sequence[Row], generators: Sequence[torch.Generator] | None = None
    ) -> list[Generation]: ...
    def readings(self, rows: Sequence[Row]) -> list[Tensor]: ...


def reasoned(base: Writer, rows: Sequence[Row]) -> list[Tensor]:
    """Readings of each row, fp32 [E]; of those that reason the means over their samples.

    Args:
        base: Writes, and scores phrases.
        rows: Some or all of which reason.
    """
    asked = [(row, s) for row in rows for s in range(_samples(row))]
    draws = [row_generator(row.encoding, s) for row, s in asked]
    with torch.no_grad():
        written = iter(base.generate([row for row, _ in asked], draws))
    groups = [[_behind(base, row, each.text) for each in islice(written, _samples(row))] or [row] for row in rows]
    found = iter(base.readings([each for group in groups for each in group]))
    return [
        _mean(torch.stack(list(islice(found, len(group)))), base.width) if _samples(row) else next(found)
        for row, group in zip(rows, groups, strict=True)
    ]


def _samples(row: Row) -> int:
    """Reasonings of a row; none of one that answers at once."""
    adapter = row.adapter
    return 0 if adapter.reasoning is None or adapter.decoding is None else adapter.decoding.samples


def _behind(base: Writer, row: Row, text: str) -> Row:
    """The row with a reasoning and the cue, after which a label stands."""
    adapter = row.adapter
    assert adapter.reasoning is not None
    assert adapter.template is not None
    assert adapter.decoding is not None
    thought = base.encode_answer(text.strip(), after=adapter.template.row)
    if base.is_here:  # elsewhere it was cut by other tokens than are counted here
        thought = thought[: adapter.decoding.max_new_tokens]
    ids = (*row.encoding.ids, *thought, *base.encode_answer(adapter.reasoning.cue, after="."))
    return Row(encoding=Encoding(ids=ids, type_ids=(0,) * len(ids)), adapter=adapter.answering)


def _mean(readings_SE: Tensor, width: int) -> Tensor:
    """Mean features; of the phrases the logarithm of the mean of their shares."""
    scores_SF = readings_SE[:, width:].log_softmax(-1)
    log_mean_F = scores_SF.logsumexp(0) - math.log(len(scores_SF))
    return torch.cat([readings_SE[:, :width].mean(0), log_mean_F])
