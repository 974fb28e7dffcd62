"""AdamW over named tensors, each with its own share of the learning rate, warm-up and decay."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tunewright.adapters.parts import is_embedding

Rates = Mapping[str, float]
"""Tensor name -> factor on the learning rate. What is not named is frozen."""


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) whose rates follow a schedule by epoch and a warm-up by step.

    Args:
        tensors: fp32 leaves by name; those that train at some time.
        rates: For each epoch, who trains and how fast.
        lr: Peak learning rate.
        weight_decay: On matrices of body and head; not on vectors, embeddings or prompts.
        warmup: Share of the steps in which the rate rises linearly; it then falls linearly to 0.
        num_steps: Of the whole training.
        clip: Largest norm of the gradient over all tensors.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        rates: Sequence[Rates],
        *,
        lr: float,
        weight_decay: float,
        warmup: float,
        num_steps: int,
        clip: float,
    ) -> None:
        self._tensors, self._rates = dict(tensors), rates
        self._lr, self._clip = lr, clip
        self._warmup_steps, self._num_steps = max(1, round(warmup * num_steps)), num_steps
        self._steps = 0
        keyed: dict[tuple[float, ...], list[str]] = {}
        for name, tensor in self._tensors.items():
            decay = weight_decay if _decays(name, tensor) else 0.0
            keyed.setdefault((decay, *(rate.get(name, 0.0) for rate in rates)), []).append(name)
        self._keys = list(keyed)
        groups = [{"params": [self._tensors[n] for n in ns], "weight_decay": key[0]} for key, ns in keyed.items()]
        self._adamw = torch.optim.AdamW(groups, lr=lr, fused=True)

    def start_epoch(self, epoch: int) -> list[str]:
        """Freezes and thaws for an epoch; returns the names that train in it."""
        trained = [name for name, rate in self._rates[epoch].items() if rate > 0]
        for name, tensor in self._tensors.items():
            tensor.requires_grad_(name in trained)
        for group, key in zip(self._adamw.param_groups, self._keys, strict=True):
            group["rate"] = key[1 + epoch]
        return trained

    def step(self) -> None:
        """One update from the gradients of the mean loss."""
        trained = [t for t in self._tensors.values() if t.grad is not None]
        torch.nn.utils.clip_grad_norm_(trained, self._clip)
        for group in self._adamw.param_groups:
            group["lr"] = self._lr * group["rate"] * self._schedule()
        self._adamw.step()
        self.clear()
        self._steps += 1

    def moments(self) -> dict[str, Tensor]:
        """What AdamW remembers of each tensor that has moved: `<name>/step`, `<name>/exp_avg`, `<name>/exp_avg_sq`."""
        known = [(name, self._adamw.state.get(tensor, {})) for name, tensor in self._tensors.items()]
        return {f"{name}/{key}": value.detach().clone() for name, found in known for key, value in found.items()}

    def restore(self, moments: Mapping[str, Tensor]) -> None:
        """Goes on with what `moments` gave, under a schedule of its own."""
        for name, tensor in self._tensors.items():
            keys = [key for key in moments if key.rpartition("/")[0] == name]
            if keys:
                self._adamw.state[tensor] = {key.rpartition("/")[2]: moments[key].clone() for key in keys}

    def clear(self) -> None:
        """Drops the gradients."""
        self._adamw.zero_grad(set_to_none=True)

    def _schedule(self) -> float:
        if self._steps < self._warmup_steps:
            return (self._steps + 1) / self._warmup_steps
        rest = self._num_steps - self._warmup_steps
        return max(0.0, (self._num_steps - self._steps) / max(1, rest))


def _decays(name: str, tensor: Tensor) -> bool:
    """Matrices decay; vectors do not, and rows of an embedding or a prompt that are not seen must stay as they are."""
    return tensor.ndim == 2 and not is_embedding(name) and name.split(".", maxsplit=1)[0] in ("weights", "head", "lora")
