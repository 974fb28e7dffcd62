"""What a fit answered: what everything else in this package judges.

Shapes: N rows, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.errors import RunError
from tunewright.evaluation.metrics import FloatArray
from tunewright.files import read_lines
from tunewright.types import is_known


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """Answers to the rows of a split, in their order."""

    given: tuple[str, ...]
    """Labels or texts."""
    probabilities_NC: FloatArray
    """[N, 0] where texts were generated, or an outside candidate gave none."""


def read_answers(file: Path, labels: Sequence[str], ids: Sequence[str]) -> Answers:
    """The answers in a file of predictions.

    Args:
        file: One prediction a line.
        labels: Of the task; none where answers are texts.
        ids: Of the rows that were asked, in their order.

    Raises:
        RunError: Other rows than those asked, or an answer that is no label of the task.
    """
    lines = read_lines(file)
    if [line.get("id") for line in lines] != list(ids):
        raise RunError(f"{file} does not answer the {len(ids)} rows of its split in order. Restore it, or repeat.")
    given = tuple(line["label"] if labels else line["text"] for line in lines)
    strange = next((each for each in given if not is_known(each, labels)), None) if labels else None
    if strange is not None:
        raise RunError(f"{file} answers {strange!r}, which is no label of the task. Restore it, or repeat the run.")
    return Answers(given=given, probabilities_NC=np.array([line["probabilities"] for line in lines]))
