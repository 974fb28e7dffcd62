"""Low-rank updates row by row against dense products."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tunewright.adapters.parts import Lora
from tunewright.backbones.low_rank import low_rank_updates

NAMES = ("first", "second")


def lora(rank: int, seed: int, names: tuple[str, ...] = NAMES) -> Lora:
    return Lora(
        alpha=5.0,
        down={n: tiny.normal(seed + k, rank, 6) for k, n in enumerate(names)},
        up={n: tiny.normal(seed + 9 + k, 6, rank) for k, n in enumerate(names)},
    )


@pytest.fixture
def linears() -> dict[str, nn.Linear]:
    layers = {name: nn.Linear(6, 6) for name in NAMES}
    with torch.no_grad():
        for k, layer in enumerate(layers.values()):
            layer.weight.copy_(tiny.normal(50 + k, 6, 6))
            layer.bias.copy_(tiny.normal(60 + k, 6))
    return layers


A, B, PARTIAL = lora(3, 100), lora(1, 200), lora(2, 300, ("second",))
MIXES: dict[str, list[Lora | None]] = {
    "one": [A, A, A],
    "one and none": [A, None, A],
    "two ranks": [A, B, A],
    "not all layers": [PARTIAL, A, None],
    "none": [None, None, None],
}


def dense(layer: nn.Linear, name: str, own: Lora | None, inputs_TI: Tensor) -> Tensor:
    weight = layer.weight
    if own is not None and name in own.down:
        weight = weight + 5.0 / len(own.down[name]) * own.up[name] @ own.down[name]
    return inputs_TI @ weight.T + layer.bias


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_of_a_lora_that_all_rows_share(
    is_frozen: bool, has_bias: bool, linears: dict[str, nn.Linear]
) -> None:
    """Written by hand where the layer is frozen."""
    layer, mine = linears["first"].requires_grad_(not is_frozen), lora(3, 100)
    if not has_bias:
        layer.register_parameter("bias", None)
    inputs, weight = tiny.normal(1, 3, 4, 6).requires_grad_(), tiny.normal(2, 3, 4, 6)
    factors = [mine.down["first"].requires_grad_(), mine.up["first"].requires_grad_()]
    leaves = [inputs, *factors, *([] if is_frozen else layer.parameters())]
    with low_rank_updates(linears, [mine] * 3):
        found = layer(inputs)
    changed = layer.weight + mine.scaling * factors[1] @ factors[0]
    expected = nn.functional.linear(inputs, changed, layer.bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    pairs = zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in (found, expected)), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_tokens_have_gradients(linears: dict[str, nn.Linear]) -> None:
    layer, inputs = linears["first"].requires_grad_(False), torch.zeros(2, 0, 6, requires_grad=True)
    with low_rank_updates(linears, [A, A]):
        found = layer(inputs)
    (change,) = torch.autograd.grad(found.sum(), inputs)
    assert found.shape == change.shape == (2, 0, 6)


@pytest.mark.parametrize("is_trained", [True, False])
def test_one_within_another_adds_both(is_trained: bool, linears: dict[str, nn.Linear]) -> None:
    layer, inputs = linears["first"].requires_grad_(False), tiny.normal(1, 2, 4, 6)
    with torch.set_grad_enabled(is_trained), low_rank_updates(linears, [A, A]), low_rank_updates(linears, [B, B]):
        found = layer(inputs)
    expected = dense(layer, "first", A, inputs) + dense(layer, "first", B, inputs) - layer(inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", MIXES.values(), ids=MIXES)
def test_against_dense(rows: list[Lora | None], linears: dict[str, nn.Linear]) -> None:
    inputs = tiny.normal(1, 3, 4, 6)
    with low_rank_updates(linears, rows):
        found = {name: layer(inputs) for name, layer in linears.items()}
    for name, layer in linears.items():
        expected = torch.stack([dense(layer, name, own, x) for own, x in zip(rows, inputs, strict=True)])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 7])
@pytest.mark.parametrize("have_all", [False, True])
def test_packed_rows_against_dense(count: int, have_all: bool, linears: dict[str, nn.Linear]) -> None:
    """Few LoRAs and many, of rows of several lengths one after the other, some without any, two with the same."""
    some = [lora(1 + k % 3, 400 + 10 * k, NAMES if k % 2 else NAMES[:1]) for k in range(count)]
    rows: list[Lora | None] = [*some, some[0], *([] if have_all else [None])]
    lengths = [1 + (5 * k) % 4 for k in range(len(rows))]
    tokens = torch.arange(sum(lengths)).split(lengths)

    def tokens_of(members: Sequence[int]) -> Tensor:
        return torch.cat([tokens[k] for k in members]) if members else torch.zeros(0, dtype=torch.long)

    inputs_NI = tiny.normal(2, sum(lengths), 6)
    with low_rank_updates(linears, rows, tokens_of):
        found = {name: layer(inputs_NI[None])[0] for name, layer in linears.items()}
    for name, layer in linears.items():
        pieces = zip(rows, inputs_NI.split(lengths), strict=True)
        expected = torch.cat([dense(layer, name, own, own_inputs) for own, own_inputs in pieces])
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind(linears: dict[str, nn.Linear]) -> None:
    """Also after an error inside."""
    inputs = tiny.normal(1, 3, 4, 6)
    before = linears["first"](inputs)
    own = linears["second"].forward = lambda input: input  # type: ignore[method-assign]  # noqa: A006
    with pytest.raises(KeyError), low_rank_updates(linears, [A, B, None]):
        raise KeyError
    assert torch.equal(linears["first"](inputs), before)
    assert "forward" not in linears["first"].__dict__
    assert linears["second"].__dict__["forward"] is own
