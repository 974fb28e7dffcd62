"""Keeping the best and knowing when to stop: on the task's metric, not on the loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from tunewright.types import DevScore


@dataclass(kw_only=True)
class Best:
    """The best epoch so far and its tensors.

    Args:
        patience: Epochs without a better one after which training stops.
    """

    patience: int
    score: DevScore | None = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    logits_NC: Tensor | None = None
    """Its answers to the exam."""
    scores: list[DevScore] = field(default_factory=list)
    """Of all epochs so far."""

    def offer(self, score: DevScore, tensors: Mapping[str, Tensor], logits_NC: Tensor | None = None) -> None:
        """Keeps a copy if it is the best."""
        self.scores.append(score)
        if score.beats(self.score):
            self.score, self.logits_NC = score, logits_NC
            self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def exhausted(self, epoch: int) -> bool:
        """Whether the last `patience` epochs brought nothing."""
        return self.score is not None and epoch - self.score.epoch >= self.patience
