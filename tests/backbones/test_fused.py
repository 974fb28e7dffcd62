"""Few operations against the many that they replace: values and gradients."""

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as apply_partly

from tests import tiny
from tunewright.backbones.fused import TanhGelu, _rotate_both, fuse


def with_gradients(run: Any, *inputs: Tensor) -> list[Tensor]:
    """Outputs, then the gradients of an uneven sum of them."""
    live = [t.clone().requires_grad_() for t in inputs]
    outputs = run(*live)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((tiny.normal(k, *o.shape) * o.float()).sum() for k, o in enumerate(outputs))
    return [*(o.detach() for o in outputs), *torch.autograd.grad(loss, live)]


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for mine, its in zip(actual, expected, strict=True):
        assert mine.dtype == its.dtype
        torch.testing.assert_close(mine.double(), its.double(), atol=tolerance * float(its.abs().max()), rtol=0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2**-7)])
def test_gelu(dtype: torch.dtype, tolerance: float) -> None:
    """Values beyond one chunk, of every size, the largest ones too."""
    values = torch.cat([tiny.normal(1, 70_000) * 3, torch.tensor([-1e4, -88.0, -10.0, 0.0, 10.0, 88.0, 1e4])]).to(dtype)
    for shape in ((-1,), (1, 7, 10_001)):
        x = values.view(shape)
        expected = with_gradients(lambda t: nn.functional.gelu(t, approximate="tanh"), x.float())
        assert_same([t.float() for t in with_gradients(TanhGelu(), x)], expected, tolerance)
    with torch.no_grad():
        torch.testing.assert_close(
            TanhGelu()(values), NewGELUActivation()(values.float()).to(dtype), atol=1e-3, rtol=0.01
        )
    double = values.double()
    assert torch.equal(TanhGelu()(double), nn.functional.gelu(double, approximate="tanh"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("shape", [(1, 9, 64), (1, 9, 4, 64)])
def test_rms_norm(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    """Of the model's width and of heads; the weight's gradient too, which full fine-tuning needs."""
    norm = LlamaRMSNorm(64, eps=1e-2).to(dtype)
    fused = nn.Sequential(copy.deepcopy(norm))
    fuse(fused)
    assert "forward" in fused[0].__dict__
    values, weight = tiny.normal(1, *shape).to(dtype), (1 + tiny.normal(2, 64)).to(dtype)

    def run(module: nn.Module) -> Any:
        return lambda x, w: torch.func.functional_call(module, {"weight": w}, (x,))

    assert_same(with_gradients(run(fused[0]), values, weight), with_gradients(run(norm), values, weight), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-6)])
@pytest.mark.parametrize("part", [8, 4])
def test_rotation(dtype: torch.dtype, tolerance: float, part: int) -> None:
    """Angles that are no rotation's, so that the halves differ; and where only a part of a head turns."""
    query, key = tiny.normal(1, 1, 6, 5, 8).to(dtype), tiny.normal(2, 1, 2, 5, 8).to(dtype)
    cos, sin = tiny.normal(3, 1, 5, part).to(dtype), tiny.normal(4, 1, 5, part).to(dtype)
    original = apply_rotary_pos_emb if part == 8 else apply_partly
    ours = with_gradients(lambda q, k: _rotate_both(original, q, k, cos, sin), query, key)
    assert_same(ours, with_gradients(lambda q, k: original(q, k, cos, sin), query, key), tolerance)


@pytest.mark.parametrize("least", [0, 2**29])
@pytest.mark.parametrize("trains", [False, True])
def test_linear_in_bf16(least: int, *, trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones and small ones, where the hand-written derivative is not worth its call."""
    monkeypatch.setattr("tunewright.backbones.fused._WORTH_A_CALL", least)
    linear = nn.Linear(48, 80).to(torch.bfloat16).requires_grad_(trains)
    fused = nn.Sequential(copy.deepcopy(linear))
    fuse(fused)
    assert "forward" in fused[0].__dict__
    values = tiny.normal(1, 2, 9, 48).to(torch.bfloat16)
    assert_same(with_gradients(fused, values), with_gradients(linear, values), 2**-7)
    with torch.no_grad():
        assert_same([fused(values)], [linear(values)], 2**-7)
    if trains:
        fused(values).sum().backward()
        linear(values).sum().backward()
        assert fused[0].weight.grad is not None
        torch.testing.assert_close(fused[0].weight.grad, linear.weight.grad)


def test_the_library_stays_as_it_is() -> None:
    """Another model of the same class rotates by transformers' own function."""
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8
    )
    fused, other = transformers.LlamaModel(config), transformers.LlamaModel(config)
    fuse(fused)
    changed = {name for name, module in fused.named_modules() if "forward" in module.__dict__}
    assert changed == {"layers.0.self_attn", "layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"}
    assert not any("forward" in module.__dict__ for module in other.modules())
    assert modeling_llama.apply_rotary_pos_emb is apply_rotary_pos_emb
