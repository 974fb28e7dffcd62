"""Layers thaw from the top; lower ones move slower."""

from collections.abc import Callable

import pytest

from tests import tiny
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.methods.gradual_unfreezing import trained

HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_schedule(kind: str, tiny_encoder: Callable[[str], Encoder]) -> None:
    """Three layers and the embeddings: four stages in the first half, the head alone first; then everything."""
    base = tiny_encoder(kind)
    adapter = tiny.adapter(base, weights=tiny.weights(base, 0, [1, 2, 3]))
    names = set(base.masters())

    def layer(k: int) -> set[str]:
        return {f"weights.{n}" for n in names if n.startswith(f"{base.layer_stack}.{k}.")}

    embeddings = {f"weights.{n}" for n in names if n.startswith("embeddings")}
    rest = {f"weights.{n}" for n in names} - layer(0) - layer(1) - layer(2) - embeddings
    # DeBERTa's relative positions feed every layer, so they thaw with the embeddings.
    deep = {n for n in rest if "rel_embeddings" in n}
    stages = [HEAD, layer(2) | (rest - deep), layer(1), layer(0), embeddings | deep]
    for stage in range(5):
        rates = trained(adapter, {"layer_decay": 0.5}, (stage + 0.5) / 4 / 2)
        assert set(rates) == set().union(*stages[: stage + 1])
        for height, members in enumerate(stages[1 : stage + 1]):
            assert {rates[n] for n in members} <= {0.5**height}
    assert set(trained(adapter, {"layer_decay": 0.5}, 0.99)) == set(adapter.tensors()) - {"weights.vocabulary_ids"}
    assert set(trained(adapter, {"layer_decay": 0.5}, 0.0)) == HEAD


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_embeddings_of_a_decoder_thaw_last(kind: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    base = tiny_decoder(kind)
    adapter = tiny.adapter(base, weights=tiny.weights(base, 0, [1, 2, 3]))
    embeddings = {f"weights.{n}" for n in base.masters() if not n.startswith(base.layer_stack) and "emb" in n}
    embeddings |= {f"weights.{n}" for n in base.masters() if n.startswith(("wte", "wpe"))}
    early, late = (set(trained(adapter, {"layer_decay": 0.5}, progress)) for progress in (0.49, 0.5))
    assert embeddings
    assert late - early == embeddings
