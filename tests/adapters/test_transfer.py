"""Starting where another adapter ended."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tunewright.adapters.parts import Head, Lora
from tunewright.adapters.prompt_encoder import PromptEncoder
from tunewright.adapters.transfer import resized, starting_at
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.decoder import Decoder


@pytest.fixture(params=["bert", "llama"])
def base(request: pytest.FixtureRequest, tiny_backbone: Callable[[str], Backbone]) -> Backbone:
    return tiny_backbone(str(request.param))


@pytest.mark.parametrize(("length", "taken"), [(5, [0, 1, 2, 3, 4]), (3, [0, 1, 2]), (7, [0, 1, 2, 3, 4, 0, 1])])
def test_lengths(length: int, taken: list[int], base: Backbone) -> None:
    """Longer: repeated; shorter: cut. The head comes along with the same labels only."""
    start = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1), head=tiny.head(base, seed=8))
    placed = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, length, seed=2), head=tiny.head(base, seed=9))
    assert start.soft_prompt is not None
    found = starting_at(placed, start)
    assert found.soft_prompt is not None
    assert torch.equal(found.soft_prompt.vectors_PD, start.soft_prompt.vectors_PD[taken])
    assert found.head is not None
    assert start.head is not None
    assert torch.equal(found.head.weight_CD, start.head.weight_CD)
    other = starting_at(replace(placed, labels=("x", "y", "z")), start)
    assert other.head is placed.head
    its = tiny.prefix(base, 5, seed=4)
    deep = starting_at(tiny.adapter(base, prefix=tiny.prefix(base, length, seed=3)), tiny.adapter(base, prefix=its))
    assert deep.prefix is not None
    assert torch.equal(deep.prefix.keys_LHPd, its.keys_LHPd[:, :, taken])
    assert torch.equal(deep.prefix.values_LHPd, its.values_LHPd[:, :, taken])


def test_a_network_ends_at_the_saved_vectors(base: Backbone) -> None:
    start = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1))
    network = PromptEncoder.random("mlp", (7, 32), 32, torch.Generator().manual_seed(1))
    placed = replace(tiny.adapter(base), soft_prompt=network)
    found = starting_at(placed, start)
    assert isinstance(found.soft_prompt, PromptEncoder)
    assert start.soft_prompt is not None
    torch.testing.assert_close(
        found.soft_prompt.vectors_PD, resized(start.soft_prompt.vectors_PD, 7, 0), atol=1e-5, rtol=0
    )


def update(lora: Lora, name: str) -> torch.Tensor:
    return lora.scaling * lora.up[name] @ lora.down[name]


def test_ranks(tiny_decoder: Callable[[str], Decoder]) -> None:
    """More computes the same, fewer the best of that rank, by the singular values of the whole product."""
    base = tiny_decoder("llama")
    start = tiny.lora(base, 4, seed=100, alpha=6.0)
    placed = {rank: tiny.lora(base, rank, seed=200, alpha=2.0 * rank) for rank in (2, 4, 8)}
    found = {}
    for rank, lora in placed.items():
        moved = starting_at(tiny.adapter(base, lora=lora), tiny.adapter(base, lora=start)).lora
        assert moved is not None
        assert (moved.rank, moved.scaling) == (rank, 2.0)
        found[rank] = moved
    for name in start.down:
        whole = update(start, name)
        for rank in (4, 8):
            torch.testing.assert_close(update(found[rank], name), whole, atol=1e-4, rtol=1e-4)
        left = torch.linalg.svdvals(whole)[2:].square().sum().sqrt()
        error = torch.linalg.matrix_norm(update(found[2], name) - whole)
        torch.testing.assert_close(error, left, atol=1e-4, rtol=1e-3)
    assert torch.equal(found[8].down[name][4:], placed[8].down[name][4:])


def test_weights_keep_the_words_of_both(base: Backbone) -> None:
    start = tiny.adapter(base, weights=tiny.weights(base, 300, [3, 7, 50]))
    placed = tiny.adapter(base, weights=tiny.weights(base, 400, [0, 7, 60]))
    found = starting_at(placed, start).weights
    assert found is not None
    assert start.weights is not None
    assert placed.weights is not None
    assert found.vocabulary_ids_V.tolist() == [0, 3, 7, 50, 60]
    rows = found.values[found.vocabulary]
    assert torch.equal(rows[[1, 2, 3]], start.weights.values[found.vocabulary])
    assert torch.equal(rows[[0, 4]], placed.weights.values[found.vocabulary][[0, 2]])
    others = [name for name in found.values if name != found.vocabulary]
    assert all(torch.equal(found.values[name], start.weights.values[name]) for name in others)


def test_other_parts_are_left_alone(base: Backbone) -> None:
    start = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1))
    for placed in (tiny.adapter(base), tiny.adapter(base, lora=tiny.lora(base, 2, seed=1))):
        assert starting_at(placed, start) is placed
    headless = replace(start, head=None)
    fresh = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=2), head=tiny.head(base, seed=9))
    assert isinstance(starting_at(fresh, headless).head, Head)
