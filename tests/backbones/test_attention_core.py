"""Attention and unpacking against plain autograd, in double precision."""

import pytest
import torch
from torch import Tensor

from tests import tiny
from tunewright.backbones.attention_core import attention
from tunewright.backbones.packed import sequences

NUM_KV, NUM, SHARE, QUERIES, KEYS, WIDTH = 2, 3, 2, 4, 4, 8


def normal(seed: int, *shape: int) -> Tensor:
    return tiny.normal(seed, *shape).double().requires_grad_()


def plain(inputs: list[Tensor], mask: Tensor, softcap: float | None) -> Tensor:
    """One softmax over prefix and own keys, the prefix repeated for every row."""
    query, key, value, *prefix = inputs
    if prefix:
        before_key, before_value = (
            t if len(t) == NUM_KV * NUM else t.repeat_interleave(NUM, 0) for t in (prefix[0], prefix[1])
        )
        key, value = torch.cat([before_key, key], 1), torch.cat([before_value, value], 1)
    scores = 0.3 * query @ key.transpose(1, 2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(NUM_KV, NUM, SHARE, QUERIES, -1) + mask
    return scores.softmax(-1).flatten(2, 3).flatten(0, 1) @ value


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("groups", [0, NUM_KV, NUM_KV * NUM])
@pytest.mark.parametrize("seen", [0, 5])
def test_values_and_gradients(softcap: float | None, groups: int, seen: int) -> None:
    """No prefix, one that all rows share, one for each row; masks that leave prefixes whole or do not."""
    size = 5 if groups else 0
    inputs = [normal(1, NUM_KV * NUM, SHARE * QUERIES, WIDTH), *(normal(k, NUM_KV * NUM, KEYS, WIDTH) for k in (2, 3))]
    inputs += [normal(k, groups, size, WIDTH) for k in (4, 5) if groups]
    hidden = tiny.normal(6, NUM, 1, QUERIES, size + KEYS) > 0.5
    hidden[..., -1], hidden[..., : min(seen, size)] = False, False
    mask = torch.zeros(hidden.shape, dtype=torch.double).masked_fill_(hidden, -1e30)

    def run(*tensors: Tensor) -> Tensor:
        query, key, value, *prefix = tensors
        both = (prefix[0], prefix[1]) if prefix else None
        return attention(query, key, value, both, mask, min(seen, size), 0.3, softcap)

    torch.testing.assert_close(run(*inputs), plain(inputs, mask, softcap), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(run, inputs)


def test_a_mask_of_heads() -> None:
    """ALiBi's is of fp32 while the rest is of bf16, and has a value for each head."""
    inputs = [normal(1, NUM_KV * NUM, SHARE * QUERIES, WIDTH), *(normal(k, NUM_KV * NUM, KEYS, WIDTH) for k in (2, 3))]
    mask = tiny.normal(4, NUM_KV, NUM, SHARE, QUERIES, KEYS)
    query, key, value = (t.detach().bfloat16() for t in inputs)
    actual = attention(query, key, value, None, mask, 0, 0.3)
    assert actual.dtype == torch.bfloat16
    expected = plain([query.double(), key.double(), value.double()], mask.double(), None)
    torch.testing.assert_close(actual.double(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("multiple", [1, 8])
def test_unpacked_and_back(multiple: int) -> None:
    """From any order in memory, with gradients; one of the sequences has no tokens."""
    lengths = [3, 0, 5, 1]
    block = sequences(lengths, [0] * 4, [0] * 4, torch.device("cpu"), multiple=multiple)
    assert block is not None
    assert block.filled_RT.shape == (4, 8 if multiple == 8 else 5)
    base = normal(1, 9, 3, 6, 4)  # as GPT-2's layer makes queries, keys and values
    sources = [base[:, 1], base.transpose(0, 1)[2], normal(2, 6, 9, 4).transpose(0, 1), normal(3, 9, 6, 5)[..., :4]]
    for values_NXd in sources:
        unpacked_KRYd = block.unpack(values_NXd, 2)
        rows = torch.split(values_NXd, lengths)
        unpacked_KRJTd = unpacked_KRYd.unflatten(2, (3, -1))
        for r, row_TXd in enumerate(rows):
            expected_KJTd = row_TXd.unflatten(1, (2, 3)).permute(1, 2, 0, 3)
            assert torch.equal(unpacked_KRJTd[:, r, :, : lengths[r]], expected_KJTd)
        assert torch.equal(block.pack(unpacked_KRYd), values_NXd)
    assert torch.autograd.gradcheck(lambda t: block.pack(block.unpack(t[:, 1], 2) * 2).sin(), [base])
