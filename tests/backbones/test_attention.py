"""Attention with a prefix against ten naive lines."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tunewright.adapters.parts import Prefix
from tunewright.backbones import attention

BATCH, HEADS, QUERIES, WIDTH, LAYERS = 3, 2, 5, 4, 2
SCALE = 0.7

Inputs = tuple[Tensor, Tensor, Tensor]
"""Queries, keys, values."""


class Layer(nn.Module):
    """Knows which layer it is, as transformers' attention modules do."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx


def prefix(length: int, seed: int) -> Prefix:
    shape = (LAYERS, HEADS, length, WIDTH)
    return Prefix(keys_LHPd=tiny.normal(seed, *shape), values_LHPd=tiny.normal(seed + 1, *shape))


def mask_of(lengths: list[int], queries: int) -> Tensor:
    """Additive, [B, 1, queries, S]."""
    allowed = torch.arange(QUERIES) < torch.tensor(lengths)[:, None]
    bias = torch.zeros(len(lengths), QUERIES).masked_fill(~allowed, torch.finfo(torch.float32).min)
    return bias[:, None, None, :].expand(-1, 1, queries, -1)


def naive(
    layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, prefixes: list[Prefix | None]
) -> Tensor:
    """One row, head and query at a time: softmax over the prefix's keys and the text's that are not masked."""
    output = torch.zeros(BATCH, QUERIES, HEADS, WIDTH)
    for b, own in enumerate(prefixes):
        for h in range(HEADS):
            keys, values = [], []
            if own is not None:
                keys, values = list(own.keys_LHPd[layer, h]), list(own.values_LHPd[layer, h])
            for t in range(QUERIES):
                line = None if mask is None else mask[b, 0, t % mask.shape[2]]
                seen = [s for s in range(QUERIES) if line is None or float(line[s]) == 0]
                all_keys = torch.stack([*keys, *(key[b, h, s] for s in seen)])
                all_values = torch.stack([*values, *(value[b, h, s] for s in seen)])
                scores = all_keys @ query[b, h, t] * SCALE
                shares = scores.exp() / scores.exp().sum()
                output[b, t, h] = shares @ all_values
    return output


@pytest.fixture
def inputs() -> Inputs:
    query, key, value = (tiny.normal(k, BATCH, HEADS, QUERIES, WIDTH).requires_grad_() for k in range(3))
    return query, key, value


MASKS = {"none": None, "one line": mask_of([5, 2, 3], 1), "square": mask_of([5, 2, 3], QUERIES)}
PREFIXES: dict[str, list[Prefix | None]] = {
    "none": [None] * 3,
    "one": [prefix(3, 30)] * 3,
    "mixed": [prefix(3, 30), None, prefix(1, 50)],
}


@pytest.mark.parametrize("path", ["fused", "plain"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("prefixes", PREFIXES)
def test_against_naive(path: str, mask: str, prefixes: str, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_prefers_plain", lambda *_: path == "plain")
    weight = tiny.normal(9, BATCH, QUERIES, HEADS, WIDTH)
    rows = PREFIXES[prefixes]
    live = list({id(p): p for p in rows}.values())
    for p in live:
        if p is not None:
            p.keys_LHPd.requires_grad_()
            p.values_LHPd.requires_grad_()
    leaves = [*inputs, *(t for p in live if p is not None for t in p.tensors().values())]
    layer = 1
    expected = naive(layer, *inputs, MASKS[mask], rows)
    wanted = torch.autograd.grad((expected * weight).sum(), leaves)
    cache = attention.prefix_cache(rows, (LAYERS, HEADS, WIDTH), inputs[0])
    actual, none = attention.attend(Layer(layer), *inputs, MASKS[mask], scaling=SCALE, prefix=cache)
    found = torch.autograd.grad((actual * weight).sum(), leaves)
    assert none is None
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_default_scale(inputs: Inputs) -> None:
    actual, _ = attention.attend(Layer(0), *inputs, None)
    expected, _ = attention.attend(Layer(0), *inputs, None, scaling=1 / math.sqrt(WIDTH))
    assert torch.equal(actual, expected)


def test_layers_have_their_own_keys(inputs: Inputs) -> None:
    cache = attention.prefix_cache(PREFIXES["mixed"], (LAYERS, HEADS, WIDTH), inputs[0])
    outputs = [attention.attend(Layer(k), *inputs, None, prefix=cache)[0] for k in range(LAYERS)]
    changed = (outputs[0] - outputs[1]).abs().amax((1, 2, 3))
    assert (changed > 1e-3).tolist() == [True, False, True]


def test_no_prefix_no_cache(inputs: Inputs) -> None:
    assert attention.prefix_cache([None, None], (LAYERS, HEADS, WIDTH), inputs[0]) is None


def test_cache_has_the_dtype_of_the_model() -> None:
    like = torch.zeros(1, dtype=torch.bfloat16)
    cache = attention.prefix_cache(PREFIXES["mixed"], (LAYERS, HEADS, WIDTH), like)
    assert cache is not None
    assert {cache.keys_BHPd[0].dtype, cache.values_BHPd[0].dtype, cache.bias_B11P.dtype} == {torch.bfloat16}
    assert (cache.bias_B11P[:, 0, 0] == 0).tolist() == [[True] * 3, [False] * 3, [True, False, False]]


def test_plain_path_is_for_few_keys_in_bf16_on_a_cpu() -> None:
    short, middle, long = (torch.zeros(1, 1, num_keys, 2) for num_keys in (4, 100, 300))
    assert attention._prefers_plain(middle.bfloat16(), middle.bfloat16())
    assert attention._prefers_plain(short.bfloat16(), short.bfloat16())
    assert not attention._prefers_plain(short.bfloat16(), long.bfloat16())
    assert not attention._prefers_plain(short, short)
    with torch.no_grad():
        assert attention._prefers_plain(short.bfloat16(), short.bfloat16())
        assert not attention._prefers_plain(middle.bfloat16(), middle.bfloat16())
