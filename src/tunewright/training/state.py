"""Where a training stood at its best epoch, for another one to begin there. safetensors, nothing pickled."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

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
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot read {path}: {error}. Restore it, or remove it to start without it.") from None
    strange = [name for name in tensors if not name.startswith(tuple(f"{group}/" for group in _GROUPS))]
    if strange or not tensors:
        found = ", ".join(strange) if strange else "nothing"
        raise AdapterError(f"{path} holds {found}. Allowed: leaves and moments of a training. Remove it.")
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if broken:
        raise AdapterError(f"{path} holds values that are not finite in {broken[0]}. Remove it to start without it.")
    leaves, moments = (
        {name.removeprefix(f"{group}/"): t for name, t in tensors.items() if name.startswith(f"{group}/")}
        for group in _GROUPS
    )
    return State(leaves=leaves, moments=moments)
