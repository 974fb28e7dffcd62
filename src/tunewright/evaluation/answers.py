"""What a fit answered, as arrays: what everything else in this package judges.

Shapes: N rows, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunewright.errors import RunError
from tunewright.evaluation.metrics import UNKNOWN_LABEL, FloatArray, IntArray, label_indices
from tunewright.files import read_lines


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """Answers to the rows of a split, in their order."""

    predicted_N: IntArray
    """Label indices."""
    probabilities_NC: FloatArray
    """[N, 0] where an outside candidate gave none."""


def read_answers(file: Path, labels: Sequence[str], ids: Sequence[str]) -> Answers:
    """The answers in a file of predictions.

    Args:
        file: One prediction a line.
        labels: Of the task.
        ids: Of the rows that were asked, in their order.

    Raises:
        RunError: Other rows than those asked, or an answer that is no label of the task.
    """
    lines = read_lines(file)
    if [line.get("id") for line in lines] != list(ids):
        raise RunError(f"{file} does not answer the {len(ids)} rows of its split in order. Restore it, or repeat.")
    predicted_N = label_indices(labels, (line["label"] for line in lines))
    if (predicted_N == UNKNOWN_LABEL).any():
        strange = lines[int((predicted_N == UNKNOWN_LABEL).argmax())]["label"]
        raise RunError(f"{file} answers {strange!r}, which is no label of the task. Restore it, or repeat the run.")
    return Answers(predicted_N=predicted_N, probabilities_NC=np.array([line["probabilities"] for line in lines]))
