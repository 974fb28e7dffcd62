"""Where a training stood at its best epoch, for another one to begin there. safetensors, nothing pickled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import Tensor

from tunewright.adapters.peft_format import read_tensors
from tunewright.errors import AdapterError
from tunewright.files import write_bytes

FILE_NAME = "training.safetensors"
"""In the adapter's folder."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Tensors and what the optimizer remembers of them, after the same epoch."""

    leaves: Mapping[str, Tensor]
    """The tensors that train."""
    moments: Mapping[str, Tensor]
    """Of AdamW: `<leaf>/step`, `<leaf>/exp_avg` and `<leaf>/exp_avg_sq`."""

    def fits(self, leaves: Mapping[str, Tensor]) -> bool:
        """Whether it is of these tensors."""
        return {n: t.shape for n, t in self.leaves.items()} == {n: t.shape for n, t in leaves.items()}


_GROUPS = ("leaves", "moments")


def save(state: State, folder: Path) -> None:
    """Writes the state beside an adapter.

    Raises:
        RunError: Disk full or read-only.
    """
    tensors = {f"{group}/{name}": t for group in _GROUPS for name, t in getattr(state, group).items()}
    write_bytes(folder / FILE_NAME, to_bytes({n: t.detach().cpu().contiguous() for n, t in tensors.items()}))


def load(folder: Path) -> State | None:
    """The state beside an adapter; None where it was not kept.

    Raises:
        AdapterError: Not such a file, or values that are not finite.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    tensors = read_tensors(path, "Restore it, or remove it to start without it.")
    strange = [name for name in tensors if not name.startswith(tuple(f"{group}/" for group in _GROUPS))]
    if strange or not tensors:
        found = ", ".join(strange) if strange else "nothing"
        raise AdapterError(f"{path} holds {found}. Allowed: leaves and moments of a training. Remove it.")
    leaves, moments = (
        {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}
        for group in _GROUPS
    )
    return State(leaves=leaves, moments=moments)
