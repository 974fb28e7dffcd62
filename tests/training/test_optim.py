"""The optimizer against torch's AdamW and against ten naive lines."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import tiny
from tunewright.training.optim import Optimizer, Rates

NAMES = {"head.weight": (3, 4), "head.bias": (3,), "soft_prompt.vectors": (5, 4), "weights.layer.0.weight": (4, 4)}
DECAYED = {"head.weight", "weights.layer.0.weight"}
ALL = dict.fromkeys(NAMES, 1.0)


def leaves() -> dict[str, Tensor]:
    return {name: tiny.normal(k, *shape) for k, (name, shape) in enumerate(NAMES.items())}


def make(tensors: dict[str, Tensor], rates: Sequence[Rates], **changed: float) -> Optimizer:
    settings = {"lr": 0.1, "weight_decay": 0.0, "warmup": 0.1, "num_steps": 20, "clip": 1e9} | changed
    return Optimizer(tensors, rates, **settings)  # type: ignore[arg-type]


def gradient(name: str, step: int) -> Tensor:
    return tiny.normal(100 + 7 * step + list(NAMES).index(name), *NAMES[name])


def naive_rate(step: int, num_steps: int, warmup_steps: int) -> float:
    """Up in equal steps to 1, then down in equal steps; never 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 1 - (step - warmup_steps) / (num_steps - warmup_steps)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_against_torch(warmup: float) -> None:
    """Same gradients, the learning rate set by hand at every step; bias correction included."""
    ours, theirs = leaves(), leaves()
    optimizer = make(ours, [ALL], warmup=warmup, weight_decay=0.3)
    optimizer.start_epoch(0)
    groups = [
        {"params": [theirs[n] for n in NAMES if n in DECAYED], "weight_decay": 0.3},
        {"params": [theirs[n] for n in NAMES if n not in DECAYED], "weight_decay": 0.0},
    ]
    oracle = torch.optim.AdamW(groups, lr=0.1)
    for step in range(20):
        for name in NAMES:
            ours[name].grad = gradient(name, step)
            theirs[name].grad = gradient(name, step)
        optimizer.step()
        for group in oracle.param_groups:
            group["lr"] = 0.1 * naive_rate(step, 20, max(1, round(warmup * 20)))
        oracle.step()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor.detach(), theirs[name], atol=1e-5, rtol=1e-5, msg=f"{name} at {step}")


def test_against_naive_adamw() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, written out in fp64."""
    tensors = leaves()
    start = {name: t.double().numpy().copy() for name, t in tensors.items()}
    optimizer = make(tensors, [ALL | {"soft_prompt.vectors": 0.5}], weight_decay=0.2)
    optimizer.start_epoch(0)
    for step in range(20):
        for name, tensor in tensors.items():
            tensor.grad = gradient(name, step)
        optimizer.step()
    for name, begin in start.items():
        value = begin
        first, second = np.zeros_like(value), np.zeros_like(value)
        for step in range(20):
            g = gradient(name, step).double().numpy()
            lr = 0.1 * naive_rate(step, 20, 2) * (0.5 if name == "soft_prompt.vectors" else 1.0)
            value = value - lr * (0.2 if name in DECAYED else 0.0) * value
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            t = step + 1
            value = value - lr * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(tensors[name].detach().numpy(), value, atol=2e-5)


def test_epochs_freeze_and_thaw() -> None:
    """A tensor moves in the epochs that name it, and only then; also one whose rate changes in between."""
    rates: list[Rates] = [{"head.bias": 1.0}, {"head.bias": 1.0, "head.weight": 0.1}, {"head.weight": 1.0}]
    tensors = {name: t for name, t in leaves().items() if name.startswith("head")}
    optimizer = make(tensors, rates, num_steps=6, weight_decay=0.1)
    for epoch in range(3):
        before = {name: t.detach().clone() for name, t in tensors.items()}
        assert sorted(optimizer.start_epoch(epoch)) == sorted(rates[epoch])
        assert {name for name, t in tensors.items() if t.requires_grad} == set(rates[epoch])
        for _ in range(2):
            torch.stack([t.sum() for t in tensors.values() if t.requires_grad]).sum().backward()
            optimizer.step()
        assert {name for name, t in tensors.items() if not torch.equal(t, before[name])} == set(rates[epoch])


def test_a_rate_of_zero_is_frozen() -> None:
    optimizer = make(leaves(), [{"head.bias": 0.0, "head.weight": 1.0}])
    assert optimizer.start_epoch(0) == ["head.weight"]


def test_clipping_against_torch() -> None:
    """The norm is that of all tensors together."""
    ours, theirs = leaves(), list(leaves().values())
    optimizer = make(ours, [ALL], clip=0.5, warmup=0.0)
    optimizer.start_epoch(0)
    oracle = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.0)
    for step in range(3):  # three steps: the first of Adam does not depend on the gradients' scale
        for name, other in zip(NAMES, theirs, strict=True):
            ours[name].grad = gradient(name, step) * 3**step
            other.grad = gradient(name, step) * 3**step
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        for group in oracle.param_groups:
            group["lr"] = 0.1 * naive_rate(step, 20, 1)
        oracle.step()
    for mine, its in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(mine.detach(), its, atol=1e-5, rtol=1e-5)


def test_what_decays() -> None:
    """Matrices of body and head; not embeddings, not virtual tokens, not vectors."""
    names = {
        "weights.encoder.layer.0.output.dense.weight": (2, 2),
        "weights.encoder.layer.0.output.dense.bias": (2,),
        "weights.encoder.layer.0.output.LayerNorm.weight": (2,),
        "weights.embeddings.word_embeddings.weight": (2, 2),
        "weights.embeddings.position_embeddings.weight": (2, 2),
        "weights.embeddings.tok_embeddings.weight": (2, 2),
        "lora.encoder.layer.0.output.dense.up": (2, 2),
        "head.weight": (2, 2),
        "head.bias": (2,),
        "soft_prompt.vectors": (2, 2),
        "prefix.keys": (1, 1, 2, 2),
        "calibration.bias": (2,),
    }
    tensors = {name: torch.ones(shape) for name, shape in names.items()}
    optimizer = make(tensors, [dict.fromkeys(names, 1.0)], weight_decay=0.5, warmup=0.0)
    optimizer.start_epoch(0)
    for tensor in tensors.values():
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    decayed = {name for name, t in tensors.items() if not torch.equal(t.detach(), torch.ones(names[name]))}
    assert decayed == {
        "weights.encoder.layer.0.output.dense.weight",
        "lora.encoder.layer.0.output.dense.up",
        "head.weight",
    }
