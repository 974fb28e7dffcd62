"""Label indices as answers: what tests of metrics and statistics are written in."""

import numpy as np

from tunewright.evaluation.metrics import METRICS, IntArray, Scorer, StatsArray


def label_scorer(metric: str, true_N: IntArray, num_labels: int, groups_N: IntArray | None = None) -> Scorer:
    """True labels as indices; a negative one is unknown to the task."""
    references = [(str(k),) for k in np.asarray(true_N).tolist()]
    labels = [str(k) for k in range(num_labels)]
    return Scorer(metric=METRICS[metric], references=references, labels=labels, groups_N=groups_N)


def stats(scorer: Scorer, predicted_N: IntArray) -> StatsArray:
    """Of answers as label indices."""
    return scorer.stats([str(k) for k in np.asarray(predicted_N).tolist()])
