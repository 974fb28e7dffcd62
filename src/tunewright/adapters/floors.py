"""Parts that answer a text with one that is there already: what every method that generates must beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tunewright.adapters.parts import Part
from tunewright.prompts.tf_idf import TfIdf


@dataclass(frozen=True, kw_only=True)
class CopiedInput(Part):
    """The answer is the input."""

    def answers(self, texts: Sequence[str]) -> list[str]:
        """To each text."""
        return list(texts)


@dataclass(frozen=True, kw_only=True)
class NearestTarget(Part):
    """The answer is the target of the training input with the most similar words."""

    texts: tuple[str, ...]
    """Training inputs."""
    targets: tuple[str, ...]
    """Of each."""

    @cached_property
    def _index(self) -> TfIdf:
        return TfIdf(self.texts)

    def answers(self, texts: Sequence[str]) -> list[str]:
        """To each text."""
        return [self.targets[k] for k in self._index.nearest(texts).tolist()] if texts else []

    def check(self) -> None:
        assert 0 < len(self.texts) == len(self.targets), "a target for each text"
