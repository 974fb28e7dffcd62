"""A part of several prompts that answer together."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self, cast

from torch import Tensor

from tunewright.adapters.parts import Calibration, Part, Settings, Template, Verbalizer


@dataclass(frozen=True, kw_only=True)
class Member:
    """A prompt, and how it is answered."""

    template: Template
    verbalizer: Verbalizer | None = None
    """None where texts are written."""
    calibration: Calibration | None = None

    def parts(self) -> dict[str, Part]:
        """Those that are there, by the name of the adapter's field."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: part for name, part in found.items() if part is not None}


_KINDS: dict[str, type[Part]] = {"template": Template, "verbalizer": Verbalizer, "calibration": Calibration}


@dataclass(frozen=True, kw_only=True)
class Members(Part):
    """Prompts of which each answers every row: probabilities are averaged, texts vote."""

    members: tuple[Member, ...]

    def settings(self) -> dict[str, object]:
        return {"members": [{name: part.settings() for name, part in each.parts().items()} for each in self.members]}

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{k}.{name}.{key}": tensor
            for k, each in enumerate(self.members)
            for name, part in each.parts().items()
            for key, tensor in part.tensors().items()
        }

    @classmethod
    def build(cls, settings: Settings, tensors: Mapping[str, Tensor]) -> Self:
        members = settings["members"]
        assert isinstance(members, list)
        assert members, "somebody answers"
        return cls(
            members=tuple(_built(cast(Mapping[str, Settings], m), f"{k}.", tensors) for k, m in enumerate(members))
        )


def _built(settings: Mapping[str, Settings], start: str, tensors: Mapping[str, Tensor]) -> Member:
    mine = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
    parts = {
        name: _KINDS[name].build(
            own, {key.removeprefix(f"{name}."): t for key, t in mine.items() if key.startswith(f"{name}.")}
        )
        for name, own in settings.items()
    }
    return Member(**parts)  # type: ignore[arg-type]
