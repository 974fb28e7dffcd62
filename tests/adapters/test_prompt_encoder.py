"""The network of p-tuning against PEFT's."""

import peft
import pytest
import torch
from peft.tuners.p_tuning import PromptEncoder as PeftEncoder
from peft.tuners.p_tuning import PromptEncoderReparameterizationType as PeftKind

from tests import tiny
from tunewright.adapters.prompt_encoder import Network, PromptEncoder

LENGTH, WIDTH, HIDDEN = 5, 12, 16


def peft_encoder(network: Network, num_layers: int = 2) -> PeftEncoder:
    config = peft.PromptEncoderConfig(
        num_virtual_tokens=LENGTH,
        token_dim=WIDTH,
        num_transformer_submodules=1,
        encoder_hidden_size=HIDDEN,
        encoder_reparameterization_type=PeftKind(network.upper()),
        encoder_num_layers=num_layers,
        encoder_dropout=0.0,
    )
    torch.manual_seed(1)
    return PeftEncoder(config)


@pytest.mark.parametrize(("network", "num_layers"), [("mlp", 2), ("lstm", 1), ("lstm", 2)])
def test_same_vectors_and_gradients(network: Network, num_layers: int) -> None:
    theirs = peft_encoder(network, num_layers)
    ours = PromptEncoder(weights={n: p.detach().clone().requires_grad_() for n, p in theirs.named_parameters()})
    weights_PD = tiny.normal(3, LENGTH, WIDTH)
    expected_PD = theirs(torch.arange(LENGTH))
    torch.testing.assert_close(ours.vectors_PD, expected_PD, atol=1e-6, rtol=1e-6)
    (expected_PD * weights_PD).sum().backward()
    (ours.vectors_PD * weights_PD).sum().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours.weights[name].grad, parameter.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_begins_as_peft_does(network: Network) -> None:
    """Names and shapes; and, as numbers are drawn otherwise, their spread."""
    theirs = dict(peft_encoder(network, 1 if network == "lstm" else 2).named_parameters())
    ours = PromptEncoder.random(network, (LENGTH, WIDTH), HIDDEN, torch.Generator().manual_seed(2)).weights
    assert {n: t.shape for n, t in ours.items()} == {n: p.shape for n, p in theirs.items()}
    for name, tensor in ours.items():
        if tensor.numel() > 100:
            assert float(tensor.std()) == pytest.approx(float(theirs[name].detach().std()), rel=0.2), name


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_ends_at_given_vectors(network: Network) -> None:
    """Only the last layer is another one; what settles are these vectors, and no network."""
    start = PromptEncoder.random(network, (LENGTH, WIDTH), HIDDEN, torch.Generator().manual_seed(2))
    vectors_PD = tiny.normal(5, LENGTH, WIDTH, scale=0.03)
    vectors_PD[3] = vectors_PD[1]  # a word twice
    found = start.ending_at(vectors_PD)
    torch.testing.assert_close(found.vectors_PD, vectors_PD, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.settled().vectors_PD, vectors_PD, atol=1e-6, rtol=0)
    assert set(found.settled().tensors()) == {"vectors"}
    changed = {
        name.split(".")[1] for name in start.weights if not torch.equal(start.weights[name], found.weights[name])
    }
    assert changed == ({"2"} if network == "lstm" else {"4"})
