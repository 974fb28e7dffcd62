"""Where a run's methods start, when the user gives an adapter to start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.transfer import learned
from tunewright.backbones.base import Base
from tunewright.backbones.foreign import is_foreign, read_foreign
from tunewright.errors import ConfigError
from tunewright.methods.base import Choice, Method, Range, Space
from tunewright.training import state
from tunewright.training.state import State


@dataclass(frozen=True, kw_only=True)
class Start:
    """A saved adapter, and where its training stood if that was kept."""

    path: Path
    adapter: Adapter
    state: State | None

    def serves(self, method: Method) -> bool:
        """Whether a method learns what this adapter has."""
        return method.learns is not None and set(learned(self.adapter)) == {method.learns}

    def state_for(self, adapter: Adapter, trained: set[str]) -> State | None:
        """Tensors and moments to start with, where they are of the same labels and sizes."""
        leaves = {name: tensor for name, tensor in adapter.tensors().items() if name in trained}
        if self.state is None or self.adapter.labels != adapter.labels or not self.state.fits(leaves):
            return None
        return self.state

    def space(self, method: Method, space: Space, max_tokens: int) -> dict[str, Range | Choice]:
        """A method's space: the saved size first, and nothing to choose that a start takes the place of."""
        if not self.serves(method):
            return dict(space)
        part = learned(self.adapter)[str(method.learns)]
        sizes = {"length": getattr(part, "length", None), "rank": getattr(part, "rank", None)}
        found = dict(space)
        for name, size in sizes.items():
            choice = found.get(name)
            if isinstance(choice, Choice) and size is not None and (name == "rank" or size <= max_tokens // 2):
                found[name] = Choice(options=tuple(dict.fromkeys([size, *choice.options])))
        if isinstance(choice := found.get("init"), Choice):
            found["init"] = Choice(options=choice.options[:1])
        return found

    def said(self, methods: Sequence[Method]) -> str:
        """What is told about it."""
        names = ", ".join(method.name for method in methods if self.serves(method))
        kind, part = next(iter(learned(self.adapter).items()))
        length = getattr(part, "length", None)
        size = "" if length is None else f" of {length} vectors, repeated where a trial has more and cut where fewer,"
        moments = "" if self.state is None else ", with the moments of its optimizer where sizes agree"
        unverified = ". PEFT's folder does not tell on which weights it was trained" if is_foreign(self.path) else ""
        return f"{names} start from the {kind.replace('_', ' ')}{size} in {self.path}{moments}{unverified}."


def read_start(path: str | None, bases: Mapping[str, Base], methods: Sequence[Method]) -> dict[str, Start]:
    """Base -> where methods start on it.

    Args:
        path: Folder of an adapter, ours or PEFT's; None for nothing.
        bases: Name -> base.
        methods: Of the run.

    Raises:
        AdapterError: No adapter there, or of another base; both hashes are named.
        ConfigError: No method of the run learns what it has.
    """
    if path is None:
        return {}
    place = Path(path)
    if is_foreign(place):
        here = {name: base for name, base in bases.items() if base.is_here}
        found = {name: Start(path=place, adapter=read_foreign(place, base), state=None) for name, base in here.items()}
    else:
        adapter, known = folder.load(place), state.load(place)
        own = [name for name, base in bases.items() if base.identity.sha256 == adapter.base.sha256]
        for name in own or list(bases)[:1]:
            bases[name].check(adapter)
        found = {name: Start(path=place, adapter=adapter, state=known) for name in own}
    start = next(iter(found.values()), None)
    if start is None:
        raise ConfigError("`start_from` has no effect: every model answers elsewhere. Leave it out.")
    if not any(start.serves(method) for method in methods):
        has = ", ".join(learned(start.adapter)) or "nothing that is learned inside the base"
        raise ConfigError(
            f"`start_from` has no effect: {place} has {has}, which no method of this run learns alone. "
            "Choose --methods that do, or leave it out."
        )
    return found
