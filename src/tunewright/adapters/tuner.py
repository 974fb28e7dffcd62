"""A part that PEFT alone knows how to run: its settings and its tensors, as its own files have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from torch import Tensor

from tunewright.adapters.parts import Part, Settings


@dataclass(frozen=True, kw_only=True)
class Tuner(Part):
    """An opaque adapter of PEFT's. Its rows need a forward pass of their own."""

    config: Mapping[str, Any]
    """PEFT's settings, JSON values, with the layers it changes by their names in the bare base."""
    values: Mapping[str, Tensor]
    """Name in PEFT's file -> value."""
    trained: tuple[str, ...]
    """Names of those that learn; the others are drawn once. None of them where PEFT's file is all that is known."""
    mixes: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """PEFT's name for it, such as `IA3`."""
        return str(self.config["peft_type"])

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.values)

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        trained = cast(list[str], settings["trained"])
        return cls(config=cast(dict[str, Any], settings["config"]), values=dict(tensors), trained=tuple(trained))
