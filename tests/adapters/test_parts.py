"""Parts are plain data; own word embeddings are looked up as in a dense table."""

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor

from tests import tiny
from tunewright.adapters.adapter import PARTS
from tunewright.adapters.parts import Lora, Part, Prefix, SoftPrompt, Weights

VOCABULARY, WIDTH = 20, 3
NAME = "embeddings.word_embeddings.weight"


def weights(ids: list[int], table: torch.Tensor) -> Weights:
    ids_V = torch.tensor(ids)
    return Weights(values={NAME: table[ids_V]}, vocabulary=NAME, vocabulary_ids_V=ids_V)


@pytest.mark.parametrize("ids", [[0], [19], [3, 4, 11], list(range(VOCABULARY))])
def test_look_up_against_dense(ids: list[int]) -> None:
    base, mine = tiny.normal(1, VOCABULARY, WIDTH), tiny.normal(2, VOCABULARY, WIDTH)
    dense = base.clone()
    dense[ids] = mine[ids]
    tokens = torch.arange(VOCABULARY).roll(7).view(4, 5)
    assert torch.equal(weights(ids, mine).look_up(tokens, base[tokens]), dense[tokens])


def test_look_up_gradients_against_dense() -> None:
    """Only rows that are held and seen get one; each occurrence counts."""
    ids = [2, 5, 9]
    mine = tiny.normal(2, VOCABULARY, WIDTH)
    tokens = torch.tensor([[5, 5, 0], [9, 1, 5]])
    upstream = tiny.normal(3, 2, 3, WIDTH)
    held = mine[ids].clone().requires_grad_()
    record = Weights(values={NAME: held}, vocabulary=NAME, vocabulary_ids_V=torch.tensor(ids))
    (record.look_up(tokens, torch.zeros(2, 3, WIDTH)) * upstream).sum().backward()
    dense = mine.clone().requires_grad_()
    (torch.nn.functional.embedding(tokens, dense) * upstream).sum().backward()
    assert held.grad is not None
    assert dense.grad is not None
    torch.testing.assert_close(held.grad, dense.grad[ids], atol=1e-6, rtol=0)
    assert held.grad[0].abs().sum() == 0


def test_look_up_without_own_embeddings() -> None:
    embeds = tiny.normal(1, 1, 2, WIDTH)
    record = Weights(values={}, vocabulary=NAME, vocabulary_ids_V=torch.tensor([1]))
    assert record.look_up(torch.tensor([[0, 1]]), embeds) is embeds


def test_look_up_takes_the_dtype_of_the_base() -> None:
    table = tiny.normal(1, VOCABULARY, WIDTH)
    tokens = torch.tensor([[1, 2]])
    found = weights([2], table).look_up(tokens, table.bfloat16()[tokens])
    assert found.dtype == torch.bfloat16


def test_lengths_and_scaling() -> None:
    assert SoftPrompt(vectors_PD=torch.zeros(7, 2)).length == 7
    assert Prefix(keys_LHPd=torch.zeros(2, 3, 5, 4), values_LHPd=torch.zeros(2, 3, 5, 4)).length == 5
    lora = Lora(alpha=6, down={"a": torch.zeros(3, 8)}, up={"a": torch.zeros(8, 3)})
    assert (lora.rank, lora.scaling) == (3, 2.0)


def test_weights_and_tuners_do_not_mix() -> None:
    assert [name for name, kind in PARTS.items() if not kind.mixes] == ["tuner", "weights"]


def test_what_is_worked_out_of_a_part_is_none_of_its_tensors() -> None:
    """Saved, hashed and trained is what the record holds."""

    @dataclass(frozen=True, kw_only=True)
    class Doubled(Part):
        vectors_PD: Tensor

        @cached_property
        def twice(self) -> Tensor:
            return 2 * self.vectors_PD

    part = Doubled(vectors_PD=torch.ones(2, 3))
    assert part.twice.sum() == 12
    assert list(part.tensors()) == ["vectors"]
    assert torch.equal(Doubled.build(part.settings(), part.tensors()).vectors_PD, part.vectors_PD)
