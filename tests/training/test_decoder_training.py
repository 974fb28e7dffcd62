"""The loop on decoders: steps in pieces, losses that explode, folders in which a decoder may come."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore
from tunewright.backbones.recomputed import recomputing
from tunewright.errors import OutOfMemory
from tunewright.runtime import generator
from tunewright.training.loop import Settings, Trained, train
from tunewright.training.objective import Exam, Rows
from tunewright.training.optim import Rates

SETTINGS = Settings(lr=0.02, epochs=3, batch_size=8, dropout=0.0)
GetDecoder = Callable[[str], Decoder]


def rows(base: Decoder, count: int, seed: int = 0) -> Rows:
    examples = tiny.examples(count, seed)
    labels = [tiny.task().labels.index(e.label or "") for e in examples]
    return Rows(encodings=base.encode(examples, base.max_tokens), labels_N=torch.tensor(labels))


def run(base: Decoder, adapter: Adapter, names: tuple[str, ...], rate_late: float = 1.0) -> Trained:
    """Trains; in the third epoch at another rate."""

    def schedule(progress: float) -> Rates:
        return dict.fromkeys(names, rate_late if progress > 0.5 else 1.0)

    def score(logits_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
        return float((logits_NC.argmax(-1) == labels_N).float().mean())

    exam = Exam(rows=rows(base, 9, seed=1), score=score)
    return train(
        adapter,
        schedule,
        SETTINGS,
        rows(base, 20),
        exam,
        store=FeatureStore(base),
        rng=generator("decoder", 1),
        observe=lambda *_: None,
    )


def prepared(name: str, base: Decoder) -> tuple[Adapter, tuple[str, ...]]:
    """An adapter and what trains of it."""
    if name == "soft prompt":
        return tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 5, seed=1)), ("soft_prompt.vectors", "head.weight")
    adapter = tiny.adapter(base, lora=tiny.lora(base, 2, seed=3), soft_prompt=tiny.soft_prompt(base, 3, seed=2))
    return adapter, tuple(name for name in adapter.tensors() if not name.startswith("head"))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("name", ["soft prompt", "both"])
def test_a_step_in_pieces(name: str, kind: str, tiny_decoder: GetDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory with more than two rows: each piece runs the shared prefix again, and the step is the same."""
    base = tiny_decoder(kind)
    adapter, names = prepared(name, base)
    whole = run(base, adapter, names)
    features = base.features

    def limited(some: Any) -> Any:
        if torch.is_grad_enabled() and len(some) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return features(some)

    monkeypatch.setattr(base, "features", limited)
    pieces = run(base, adapter, names)
    assert (whole.micro_batches, pieces.micro_batches) == (1, 4)
    for key, tensor in whole.adapter.tensors().items():
        torch.testing.assert_close(pieces.adapter.tensors()[key], tensor, atol=5e-5, rtol=1e-3)
    for one, other in zip(whole.scores, pieces.scores, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


def test_a_row_that_does_not_fit_is_computed_again(tiny_decoder: GetDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one row fits as long as layers keep what they computed; the steps are the same."""
    base = tiny_decoder("gpt2")
    adapter, names = prepared("both", base)
    whole = run(base, adapter, names)
    features = base.features

    def limited(some: Any) -> Any:
        if not torch.is_grad_enabled():
            return features(some)
        with recomputing(False):
            most_bytes = share * kept(lambda: features(some))[1]
        found, kept_bytes = kept(lambda: features(some))
        if kept_bytes > most_bytes:
            raise torch.OutOfMemoryError("out of memory")
        return found

    share = 0.8
    monkeypatch.setattr(base, "features", limited)
    again = run(base, adapter, names)
    assert (whole.recomputes, again.recomputes, again.micro_batches) == (False, True, 8)
    for key, tensor in whole.adapter.tensors().items():
        torch.testing.assert_close(again.adapter.tensors()[key], tensor, atol=5e-5, rtol=1e-3)
    share = 0.1
    with pytest.raises(OutOfMemory, match="single row"):
        run(base, adapter, names)


def kept(run: Callable[[], Any]) -> tuple[Any, int]:
    """A result, and the bytes that are kept for its derivative."""
    sizes = [0]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes[0] += 0 if isinstance(tensor, torch.nn.Parameter) else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        return run(), sizes[0]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom", "bert"])
@pytest.mark.parametrize("name", ["parts", "weights", "phrases"])
def test_layers_that_run_again(name: str, kind: str, tiny_backbone: Callable[[str], Backbone]) -> None:
    """Mixed prefixes and LoRAs, weights of the row's own and scores of phrases: same readings and gradients."""
    base = tiny_backbone(kind)
    if name == "phrases" and not isinstance(base, Decoder):
        pytest.skip("an encoder scores no phrases")
    plain = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 3, seed=1), lora=tiny.lora(base, 2, seed=3))
    parts: dict[str, dict[str, Any]] = {
        "parts": {"prefix": tiny.prefix(base, 2, seed=4)},
        "weights": {"weights": tiny.weights(base, 5, [1, 2]), "lora": None},
        "phrases": {
            "template": Template(fixed="so it is\n", row="{text}:"),
            "verbalizer": Verbalizer(phrases=(("old song", "food"), ("old bus",), ("new bread",)), scale=1.0),
        },
    }
    adapters = [replace(plain, **parts[name]), replace(plain, lora=None) if name == "parts" else plain]
    adapters = adapters[:1] if name == "weights" else adapters
    encodings = [e for k, a in enumerate(adapters) for e in base.encode_for(tiny.examples(4, seed=k), a)]
    leaves = {
        f"{k}.{n}": t.clone().requires_grad_()
        for k, a in enumerate(adapters)
        for n, t in a.tensors().items()
        if t.is_floating_point()
    }
    live = [
        a.with_tensors({n: leaves.get(f"{k}.{n}", t) for n, t in a.tensors().items()}) for k, a in enumerate(adapters)
    ]
    inputs = [Row(encoding=e, adapter=live[k // 4]) for k, e in enumerate(encodings)]
    found, used = [], [t for n, t in leaves.items() if "head" not in n]
    for asked in (False, True):
        with recomputing(asked):
            readings, kept_bytes = kept(lambda: base.readings(inputs))
        loss = sum(((k + 1) * reading.sin()).sum() for k, reading in enumerate(readings))
        gradients = torch.autograd.grad(loss, used, allow_unused=True, materialize_grads=True)
        found.append((readings, gradients, kept_bytes))
    (plain_readings, plain_gradients, plain_bytes), (readings, gradients, few_bytes) = found
    assert few_bytes < 0.8 * plain_bytes
    assert all(torch.equal(one, other) for one, other in zip(plain_readings, readings, strict=True))
    assert sum(bool(g.any()) for g in gradients) >= len(used) - 2
    for one, other in zip(plain_gradients, gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5 * float(one.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_divergence_keeps_the_best(kind: str, tiny_decoder: GetDecoder) -> None:
    """The rate explodes in the third epoch: the step is named, and what was best before it is kept."""
    base = tiny_decoder(kind)
    adapter, names = prepared("soft prompt", base)
    found = run(base, adapter, names, rate_late=1e30)
    calm = run(base, adapter, names)
    assert found.stopped.startswith("diverged at step ")
    assert int(found.stopped.split(":")[0].split()[-1]) in (7, 8, 9)
    assert found.scores == calm.scores[:2]
    assert found.best in found.scores
    assert all(tensor.isfinite().all() for tensor in found.adapter.tensors().values())


@pytest.mark.parametrize("form", ["sharded", "tied", "untied", "resized", "half"])
def test_forms_of_a_folder(form: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As language models are saved: last hidden states are transformers' own, and rows of new words are there."""
    config = transformers.AutoConfig.from_pretrained(tiny_folder("llama"), tie_word_embeddings=form != "untied")
    torch.manual_seed(4)
    model = transformers.AutoModelForCausalLM.from_config(config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder("llama"))
    if form == "resized":
        tokenizer.add_tokens(["zebra", "giraffe"])
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    model = model.half() if form == "half" else model
    model.save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "5GB")
    tokenizer.save_pretrained(tmp_path)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (form == "sharded")
    base = tiny.decoder(tmp_path)
    text = "a zebra and a giraffe on the road"
    (found,) = tiny.encodings(base, [text])
    assert list(found.ids) == tokenizer(text)["input_ids"]
    if form == "resized":
        assert len(tokenizer) - 1 in found.ids
        assert len(base.word_embeddings) % 64 == 0
    with torch.no_grad():
        states = model.float().eval().model(torch.tensor([found.ids])).last_hidden_state
    torch.testing.assert_close(base.features(tiny.rows(tiny.adapter(base), [found])), states[:, -1], atol=1e-5, rtol=0)
    prompted = replace(tiny.adapter(base), soft_prompt=tiny.soft_prompt(base, 4, seed=1))
    base.check(prompted)
