"""Where a training stands after an epoch: enough to go on as if it had never stopped. safetensors, nothing pickled."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tunewright.errors import AdapterError
from tunewright.files import write_bytes
from tunewright.types import DevScore

FILE_NAME = "training.safetensors"
"""In the adapter's folder."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A training after some epochs."""

    epoch: int
    """Epochs done."""
    num_steps: int
    """Updates done."""
    num_tokens: int
    leaves: Mapping[str, Tensor]
    """The tensors that train, as they are now: not the best epoch's."""
    moments: Mapping[str, Tensor]
    """Of AdamW: `<leaf>/step`, `<leaf>/exp_avg` and `<leaf>/exp_avg_sq`."""
    best: Mapping[str, Tensor]
    """Tensors of the best epoch."""
    best_logits_NC: Tensor | None
    """Its answers to the exam."""
    best_score: DevScore | None
    scores: tuple[DevScore, ...]
    shuffling: Mapping[str, Any] | None
    """State of the numpy generator; None to go on with the one at hand."""
    dropout: Tensor | None
    """State of the torch generator."""

    def fits(self, leaves: Mapping[str, Tensor]) -> bool:
        """Whether it is of these tensors."""
        return {n: t.shape for n, t in self.leaves.items()} == {n: t.shape for n, t in leaves.items()}

    def anew(self) -> "State":
        """Tensors and moments alone: for another training, with a schedule and a best epoch of its own."""
        return dataclasses.replace(
            self,
            epoch=0,
            num_steps=0,
            num_tokens=0,
            best={},
            best_logits_NC=None,
            best_score=None,
            scores=(),
            shuffling=None,
            dropout=None,
        )


_GROUPS = ("leaves", "moments", "best")


def save(state: State, folder: Path) -> None:
    """Writes the state beside an adapter.

    Raises:
        RunError: Disk full or read-only.
    """
    tensors = {f"{group}/{name}": t for group in _GROUPS for name, t in getattr(state, group).items()}
    single = {"best_logits": state.best_logits_NC, "dropout": state.dropout}
    tensors |= {name: tensor for name, tensor in single.items() if tensor is not None}
    record = {
        "epoch": state.epoch,
        "num_steps": state.num_steps,
        "num_tokens": state.num_tokens,
        "scores": [dataclasses.asdict(score) for score in state.scores],
        "best_score": None if state.best_score is None else dataclasses.asdict(state.best_score),
        "shuffling": state.shuffling,
    }
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(folder / FILE_NAME, to_bytes(whole, metadata={"training": json.dumps(record)}))


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
            record = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = _build(record, tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"cannot read {path}: {error}. Restore it, or remove it to start without it.") from None
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if broken:
        raise AdapterError(f"{path} holds values that are not finite in {broken[0]}. Remove it to start without it.")
    return state


def _build(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> State:
    def group(name: str) -> dict[str, Tensor]:
        start = f"{name}/"
        return {key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)}

    best = record["best_score"]
    return State(
        epoch=int(record["epoch"]),
        num_steps=int(record["num_steps"]),
        num_tokens=int(record["num_tokens"]),
        leaves=group("leaves"),
        moments=group("moments"),
        best=group("best"),
        best_logits_NC=tensors.get("best_logits"),
        best_score=None if best is None else DevScore(**best),
        scores=tuple(DevScore(**score) for score in record["scores"]),
        shuffling=record["shuffling"],
        dropout=tensors.get("dropout"),
    )


def random_state(rng: np.random.Generator) -> dict[str, Any]:
    """Of a numpy generator, in JSON values."""
    found: dict[str, Any] = json.loads(json.dumps(rng.bit_generator.state))
    return found


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that no later step changes."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
