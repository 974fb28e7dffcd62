"""What each method starts from."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tunewright.backbones.base import Encoding
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.inference import FeatureStore, predict, readings
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Material, Range, default_epochs
from tunewright.methods.heads import described_head
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Params


@pytest.fixture
def material(tiny_encoder: Callable[[str], Encoder]) -> Material:
    base = tiny_encoder("bert")
    return prepare(tiny.task(), base, tiny.examples(11), tiny.examples(9, seed=1), METRICS["accuracy"], 64).material


@pytest.mark.parametrize("name", ["lora", "full", "gradual-unfreezing"])
def test_starts_as_the_base(name: str, material: Material) -> None:
    """Each row's features are those of the bare base, and its logits those of a new head on them."""
    method = METHODS[name]
    params = {key: choice.default for key, choice in method.space(material).items()}
    adapter = method.place(material, params, generator("x"))
    encodings, store = material.rows.encodings, material.store
    torch.testing.assert_close(readings(adapter, encodings, store), store(encodings), atol=1e-5, rtol=1e-5)
    bare = material.adapter(head=described_head(material))
    torch.testing.assert_close(
        predict(adapter, encodings, store), predict(bare, encodings, store), atol=1e-4, rtol=1e-4
    )


def test_majority(material: Material) -> None:
    """Add-one shares of 4, 4 and 3 rows."""
    adapter = METHODS["majority"].place(material, {}, generator("x"))
    probabilities = predict(adapter, material.rows.encodings[:2], material.store).softmax(-1)
    torch.testing.assert_close(probabilities, torch.tensor([[5, 5, 4], [5, 5, 4]]) / 14, atol=1e-6, rtol=0)


def test_majority_does_not_run_the_model(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = METHODS["majority"].place(material, {}, generator("x"))
    monkeypatch.setattr(material.backbone, "features", None)
    assert predict(adapter, material.rows.encodings, FeatureStore(material.backbone)).shape == (11, 3)


def test_few_shot_knows_its_pool(material: Material) -> None:
    """With one neighbour, every training row is answered by itself."""
    adapter = METHODS["few-shot"].place(material, {"neighbours": 1, "temperature": 0.1}, generator("x"))
    found = predict(adapter, material.rows.encodings, material.store)
    assert found.argmax(-1).tolist() == material.rows.labels_N.tolist()


def test_soft_prompt_is_made_of_words(material: Material) -> None:
    adapter = METHODS["soft-prompt"].place(material, {"init": "bread soup", "length": 4}, generator("x"))
    table = material.weights.masters()[material.weights.vocabulary_name]
    ids = material.backbone.token_ids("bread soup")
    assert adapter.soft_prompt is not None
    assert torch.equal(adapter.soft_prompt.vectors_PD, table[[*ids, *ids]])


@pytest.mark.parametrize(
    ("num_rows", "num_labels", "epochs"),
    [
        (0, 2, 15),
        (100, 2, 15),
        (770, 77, 15),
        (800, 10, 6),
        (500, 2, 8),
        (1000, 30, 7),
        (5000, 6, 5),
        (10**6, 2, 5),
        (1000, 0, 8),
    ],
)
def test_default_epochs(num_rows: int, num_labels: int, epochs: int) -> None:
    """4,000 rows and 100 more for each label, or 8,000 texts, divided by the rows there are; 5 to 15."""
    assert default_epochs(num_rows, num_labels) == epochs


@pytest.mark.parametrize(("width", "scale"), [(64, 6), (128, 6), (256, 3), (384, 2), (768, 1), (4096, 1)])
def test_narrow_decoders_have_larger_rates(
    width: int,
    scale: float,
    material: Material,
    tiny_decoder: Callable[[str], Decoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """768 / D times those of an encoder, whose own do not hang on its width; its square where texts are written."""
    decoder = tiny_decoder("gpt2")
    train, dev = tiny.examples(11), tiny.examples(9, seed=1)
    narrow = prepare(tiny.task(), decoder, train, dev, METRICS["accuracy"], 64).material
    writing = replace(narrow, task=replace(narrow.task, kind="generate", labels=(), descriptions={}))
    monkeypatch.setattr(decoder._checkpoint.config, "n_embd", width)
    lows = {"prefix": 3e-3, "lora": 1e-4, "full": 1e-5, "gradual-unfreezing": 2e-5}
    for name, low in lows.items():
        meant, labels, texts = (METHODS[name].space(each)["lr"] for each in (material, narrow, writing))
        assert isinstance(meant, Range)
        assert meant.low == low
        for found, factor in ((labels, scale), (texts, scale**2)):
            assert isinstance(found, Range)
            for key in ("low", "default", "high"):
                assert getattr(found, key) == pytest.approx(factor * getattr(meant, key))


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_prefix_is_the_cache_of_a_text(kind: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    """Before any step a row answers as it would behind that text, token by token."""
    base = tiny_decoder(kind)
    made = prepare(tiny.task(), base, tiny.examples(11), tiny.examples(9, seed=1), METRICS["accuracy"], 64).material
    text = "good bread was near the old road"
    ids = base.token_ids(text)
    adapter = METHODS["prefix"].place(made, {"init": text, "length": len(ids)}, generator("x"))
    assert len(set(ids)) < len(ids), "a text as it stands, tokens that come twice too"
    rows = made.rows.encodings[:4]
    behind = [Encoding(ids=(*ids, *e.ids), type_ids=(0,) * (len(ids) + len(e.ids))) for e in rows]
    torch.testing.assert_close(readings(adapter, rows, made.store), made.store(behind), atol=1e-5, rtol=1e-5)
    assert (made.store(behind) - made.store(rows)).abs().amax(-1).max() > 0.1  # a window may hide it from long rows
    assert METHODS["prefix"].space(made)["init"].default == "labels"


def test_prefix_of_an_encoder_starts_from_small_noise(material: Material) -> None:
    assert "init" not in METHODS["prefix"].space(material)
    adapter = METHODS["prefix"].place(material, {"length": 5}, generator("x"))
    assert adapter.prefix is not None
    assert float(adapter.prefix.keys_LHPd.std()) == pytest.approx(0.3, rel=0.1)


def test_random_start_has_the_size_of_embeddings(material: Material) -> None:
    """For ablations; no space has it."""
    adapter = METHODS["soft-prompt"].place(material, {"init": "random", "length": 32}, generator("x"))
    table = material.weights.word_embeddings
    assert adapter.soft_prompt is not None
    assert float(adapter.soft_prompt.vectors_PD.std()) == pytest.approx(float(table.square().mean().sqrt()), rel=0.1)
    options = METHODS["soft-prompt"].space(material)["init"]
    assert isinstance(options, Choice)
    assert "random" not in options.options


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_p_tuning_starts_at_words(network: str, material: Material) -> None:
    params: Params = {"init": "bread soup", "length": 4, "network": network}
    adapter = METHODS["p-tuning"].place(material, params, generator("x"))
    ids = material.backbone.token_ids("bread soup")
    assert adapter.soft_prompt is not None
    expected = material.weights.word_embeddings[[*ids, *ids]]
    torch.testing.assert_close(adapter.soft_prompt.vectors_PD, expected, atol=1e-5, rtol=0)
