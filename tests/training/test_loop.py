"""The loop on a tiny BERT: every way of cutting a step gives the same step, and the best is kept whatever happens."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Encoding
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.errors import OutOfMemory
from tunewright.runtime import generator
from tunewright.training.batching import epoch_batches
from tunewright.training.loop import Settings, Trained, train, trainable_count
from tunewright.training.loss import cross_entropy
from tunewright.training.objective import Exam, Rows, evaluate
from tunewright.training.optim import Rates
from tunewright.types import DevScore

SETTINGS = Settings(lr=0.02, epochs=3, batch_size=8, dropout=0.0)
ATOL, RTOL = 2e-5, 1e-4
"""fp32, a step cut in pieces: sums in another order, then Adam."""


def accuracy(logits_NC: Tensor, labels_N: Tensor) -> float:
    return float((logits_NC.argmax(-1) == labels_N).float().mean())


def rows(base: Encoder, count: int, seed: int = 0) -> Rows:
    examples = tiny.examples(count, seed)
    labels = [tiny.task().labels.index(e.label or "") for e in examples]
    return Rows(encodings=base.encode(examples, base.max_tokens), labels_N=torch.tensor(labels))


def only(*names: str) -> Callable[[float], Rates]:
    return lambda _progress: dict.fromkeys(names, 1.0)


HEAD = only("head.weight", "head.bias")


class Log:
    """Hears of every step and epoch; asks to stop at a given progress."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.steps: list[float] = []
        self.scores: list[tuple[float, DevScore]] = []
        self.stop_at = stop_at

    def __call__(self, progress: float, score: DevScore | None) -> str | None:
        if score is None:
            self.steps.append(progress)
        else:
            self.scores.append((progress, score))
        return "time is up" if progress >= self.stop_at else None


def run(
    base: Encoder,
    adapter: Adapter,
    schedule: Callable[[float], Rates],
    settings: Settings = SETTINGS,
    *,
    dev: Rows | None = None,
    score: Callable[[Tensor, Tensor], float] = accuracy,
    **changed: Any,
) -> Trained:
    arguments: dict[str, Any] = {
        "rows": rows(base, 20),
        "exam": Exam(rows=rows(base, 9, seed=1) if dev is None else dev, score=score),
        "store": FeatureStore(base),
        "rng": generator("test", 3),
        "observe": Log(),
    } | changed
    return train(adapter, schedule, settings, **arguments)


@pytest.fixture
def base(tiny_encoder: Callable[[str], Encoder]) -> Encoder:
    return tiny_encoder("bert")


@pytest.fixture
def prompted(base: Encoder) -> Adapter:
    return tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, 4, seed=3))


PROMPT = only("soft_prompt.vectors", "head.weight", "head.bias")


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=ATOL, rtol=RTOL, msg=name)


def test_only_named_tensors_move(base: Encoder, prompted: Adapter) -> None:
    trained = run(base, prompted, only("soft_prompt.vectors")).adapter
    changed = {n for n, t in trained.tensors().items() if not torch.equal(t, prompted.tensors()[n])}
    assert changed == {"soft_prompt.vectors"}
    assert not any(t.requires_grad for t in trained.tensors().values())


def test_the_start_is_left_alone(base: Encoder, prompted: Adapter) -> None:
    before = prompted.sha256()
    assert run(base, prompted, PROMPT).adapter.sha256() != before
    assert prompted.sha256() == before


def test_head_against_torch(base: Encoder) -> None:
    """A head on fixed features, trained by torch's own AdamW over the same batches."""
    adapter, data, settings = (
        tiny.adapter(base),
        rows(base, 20),
        replace(SETTINGS, weight_decay=0.1, warmup=0.25, clip=0.3),
    )
    found = run(base, adapter, HEAD, settings, rows=data)
    with torch.no_grad():
        features = base.features(tiny.rows(adapter, list(data.encodings)))
    weight, bias = (adapter.tensors()[n].clone().requires_grad_() for n in ("head.weight", "head.bias"))
    oracle = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}])
    rng = generator("test", 3)
    rng.integers(2**63)  # the seed of dropout
    steps = [b for _ in range(3) for b in epoch_batches([len(e.ids) for e in data.encodings], 8, rng)]
    states = []
    for k, batch in enumerate(steps):
        for group in oracle.param_groups:
            group["lr"] = 0.02 * ((k + 1) / 2 if k < 2 else (9 - k) / 7)
        loss = nn.functional.cross_entropy(features[batch] @ weight.T + bias, data.labels_N[batch])
        oracle.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([weight, bias], 0.3)
        oracle.step()
        states.append((weight.detach().clone(), bias.detach().clone()))
    assert found.best is not None
    expected = states[3 * found.best.epoch - 1]
    assert_same(dict(zip(("head.weight", "head.bias"), expected, strict=True)), found.adapter.tensors())
    assert found.num_tokens == 3 * sum(len(e.ids) for e in data.encodings)


@pytest.mark.parametrize("balanced", [False, True])
def test_gradient_accumulation(
    base: Encoder, prompted: Adapter, monkeypatch: pytest.MonkeyPatch, *, balanced: bool
) -> None:
    """Out of memory with more than 2 rows, at every attempt: 8 rows become 4 pieces, and nothing else changes."""
    settings = replace(SETTINGS, balanced=balanced)
    data = rows(base, 20)
    uneven = replace(data, labels_N=torch.where(torch.arange(20) < 9, 0, data.labels_N))
    whole = run(base, prompted, PROMPT, settings, rows=uneven)
    forgetful(base, monkeypatch, most=2)
    pieces = run(base, prompted, PROMPT, settings, rows=uneven)
    assert (whole.micro_batches, pieces.micro_batches) == (1, 4)
    assert_same(whole.adapter.tensors(), pieces.adapter.tensors())
    for one, other in zip(whole.scores, pieces.scores, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


def forgetful(base: Encoder, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Makes the model run out of memory, while training, on more than `most` rows."""
    forward = base._model.forward

    def limited(*arguments: Any, **inputs: Any) -> Any:
        output = forward(*arguments, **inputs)
        if torch.is_grad_enabled() and len(inputs["inputs_embeds"]) > most:
            raise torch.OutOfMemoryError("out of memory")
        return output

    monkeypatch.setattr(base._model, "forward", limited)


def test_a_single_row_that_does_not_fit(base: Encoder, prompted: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    forgetful(base, monkeypatch, most=0)
    with pytest.raises(OutOfMemory, match="single row"):
        run(base, prompted, PROMPT)


def test_other_errors_pass(base: Encoder, prompted: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(base._model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        run(base, prompted, PROMPT)


def test_divergence_keeps_the_best(base: Encoder, prompted: Adapter) -> None:
    """The rate explodes in the third epoch."""

    def schedule(progress: float) -> Rates:
        rate = 1e30 if progress > 0.5 else 1.0
        return {"soft_prompt.vectors": rate, "head.weight": rate}

    found = run(base, prompted, schedule, SETTINGS)
    calm = run(base, prompted, lambda p: dict.fromkeys(schedule(p), 1.0), SETTINGS, observe=Log(stop_at=2.0))
    assert found.stopped.startswith("diverged at step ")
    assert int(found.stopped.split(":")[0].split()[-1]) in (7, 8, 9)
    assert found.best is not None
    assert found.best.epoch <= 2
    assert_same(found.adapter.tensors(), calm.adapter.tensors())


def test_divergence_before_the_first_score(base: Encoder, prompted: Adapter) -> None:
    """Also where an epoch is a single step, whose own loss is still finite."""
    for size in (4, 20):
        log = Log()
        settings = replace(SETTINGS, lr=1e36, warmup=0.0, batch_size=size, clip=1e30)
        found = run(base, prompted, PROMPT, settings, observe=log)
        assert found.stopped.startswith("diverged")
        assert found.best is None
        assert found.adapter.sha256() == prompted.sha256()


def test_early_stopping(base: Encoder) -> None:
    """Scores that fall from the second epoch on, with a patience of 2."""
    values = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5])
    settings = replace(SETTINGS, epochs=6, patience=2)
    found = run(base, tiny.adapter(base), HEAD, settings, score=lambda *_: next(values))
    assert [s.value for s in found.scores] == [0.5, 0.9, 0.8, 0.7]
    assert found.stopped == "no better for 2 epochs"
    assert found.best == found.scores[1]


@pytest.mark.parametrize("schedule", [HEAD, PROMPT], ids=["head", "prompt"])
def test_best_epoch_is_what_is_returned(base: Encoder, prompted: Adapter, schedule: Callable[[float], Rates]) -> None:
    """Its score, computed again from the adapter, is the one reported."""
    dev = rows(base, 9, seed=1)
    found = run(base, prompted, schedule, replace(SETTINGS, lr=0.1, epochs=6), dev=dev)
    logits = predict(found.adapter, dev.encodings, FeatureStore(base))
    assert found.best is not None
    assert found.best.value == accuracy(logits, dev.labels_N) == max(s.value for s in found.scores)
    assert found.best.loss == pytest.approx(float(nn.functional.cross_entropy(logits, dev.labels_N)), abs=1e-5)
    assert found.dev_logits_NC is not None
    torch.testing.assert_close(found.dev_logits_NC, logits, atol=1e-5, rtol=0)


def test_observer_hears_of_every_step(base: Encoder) -> None:
    log = Log()
    found = run(base, tiny.adapter(base), HEAD, observe=log)
    assert log.steps == pytest.approx(np.arange(1, 10) / 3)
    assert [p for p, _ in log.scores] == [1.0, 2.0, 3.0]
    assert tuple(s for _, s in log.scores) == found.scores
    assert found.stopped == "finished"


@pytest.mark.parametrize(("stop_at", "steps", "epochs"), [(0.5, 2, 0), (1.0, 3, 0), (1.2, 4, 1)])
def test_observer_stops(base: Encoder, stop_at: float, steps: int, epochs: int) -> None:
    log = Log(stop_at=stop_at)
    found = run(base, tiny.adapter(base), HEAD, observe=log)
    assert (len(log.steps), len(found.scores)) == (steps, epochs)
    assert found.stopped == "time is up"
    assert (found.best is None) == (epochs == 0)


def test_dev_scores_follow_the_body(base: Encoder, prompted: Adapter) -> None:
    """The last epoch's score is of the last epoch's prompt."""
    dev, ever = rows(base, 9, seed=1), iter(range(9))
    found = run(base, prompted, only("soft_prompt.vectors"), dev=dev, score=lambda *_: float(next(ever)))
    logits = predict(found.adapter, dev.encodings, FeatureStore(base))
    assert found.best is not None
    assert found.best.epoch == 3
    assert found.best.loss == pytest.approx(float(nn.functional.cross_entropy(logits, dev.labels_N)), abs=1e-5)
    assert len({s.loss for s in found.scores}) == 3


@pytest.mark.parametrize("thaws", [True, False])
def test_body_that_thaws_or_freezes_later(base: Encoder, prompted: Adapter, *, thaws: bool) -> None:
    """Some epochs from fixed features, the others with the body: the same as with features computed at every step.

    A prefix that moves by less than fp32 can tell makes the loop compute them.
    """

    def schedule(progress: float) -> Rates:
        body = progress > 0.6 if thaws else 0.3 < progress < 0.6
        return PROMPT(progress) if body else HEAD(progress)

    def always(progress: float) -> Rates:
        return {**schedule(progress), "prefix.keys": 1e-30}

    adapter, settings = replace(prompted, prefix=tiny.prefix(base, 2, seed=8)), replace(SETTINGS, clip=1e9)
    found, oracle = (run(base, adapter, s, settings) for s in (schedule, always))
    assert_same(found.adapter.tensors(), oracle.adapter.tensors())
    for one, other in zip(found.scores, oracle.scores, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_seeds(base: Encoder, prompted: Adapter, dropout: float) -> None:
    settings = replace(SETTINGS, dropout=dropout)
    first, again, other = (run(base, prompted, PROMPT, settings, rng=generator(s)) for s in (1, 1, 2))
    assert first.adapter.sha256() == again.adapter.sha256() != other.adapter.sha256()
    assert first.scores == again.scores


def test_dropout_reaches_the_head(base: Encoder) -> None:
    with_it = run(base, tiny.adapter(base), HEAD, replace(SETTINGS, dropout=0.5))
    without = run(base, tiny.adapter(base), HEAD)
    assert with_it.adapter.sha256() != without.adapter.sha256()


def test_full_with_seen_vocabulary_against_dense_adamw(base: Encoder) -> None:
    """Three steps with all embeddings as one dense table without decay: rows that are not seen do not move."""
    data = rows(base, 12)
    ids = sorted({i for e in data.encodings for i in e.ids})
    everything = list(range(len(base.masters()[base.vocabulary_name])))
    restricted, dense = (tiny.adapter(base, weights=own_weights(base, chosen)) for chosen in (ids, everything))
    names = [f"weights.{n}" for n in base.masters()] + ["head.weight", "head.bias"]
    settings = replace(SETTINGS, lr=1e-3, epochs=1, batch_size=4, weight_decay=0.1)
    one, other = (run(base, a, only(*names), settings, rows=data).adapter.tensors() for a in (restricted, dense))
    table = f"weights.{base.vocabulary_name}"
    assert (other[table][ids] - base.masters()[base.vocabulary_name][ids]).abs().amax(-1).min() > 1e-4
    unseen = [i for i in everything if i not in ids]
    assert unseen
    assert torch.equal(other[table][unseen], base.masters()[base.vocabulary_name][unseen])
    torch.testing.assert_close(one[table], other[table][ids], atol=1e-6, rtol=0)
    for name in set(one) - {table, "weights.vocabulary_ids"}:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=0, msg=name)


def test_full_against_transformers(base: Encoder, tiny_folder: Callable[[str], Any]) -> None:
    """The same three steps by transformers' own forward and torch's own AdamW."""
    import transformers

    data = rows(base, 12)
    ids = sorted({i for e in data.encodings for i in e.ids})
    adapter = tiny.adapter(base, weights=own_weights(base, ids))
    names = [f"weights.{n}" for n in base.masters()] + ["head.weight", "head.bias"]
    settings = replace(SETTINGS, lr=1e-3, epochs=1, batch_size=4, weight_decay=0.1, warmup=0.0)
    found = run(base, adapter, only(*names), settings, rows=data).adapter.tensors()

    model = transformers.AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32).eval()
    head = {n: adapter.tensors()[n].clone().requires_grad_() for n in ("head.weight", "head.bias")}
    body = {n: p for n, p in model.named_parameters() if not n.startswith("pooler")}
    mine = body | head
    decays = [p for n, p in mine.items() if p.ndim == 2 and "embedding" not in n]
    rest = [p for n, p in mine.items() if not (p.ndim == 2 and "embedding" not in n)]
    oracle = torch.optim.AdamW([{"params": decays, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    rng = generator("test", 3)
    rng.integers(2**63)
    for k, batch in enumerate(epoch_batches([len(e.ids) for e in data.encodings], 4, rng)):
        for group in oracle.param_groups:
            group["lr"] = 1e-3 * [1, 1, 1 / 2][k]
        pooled = torch.stack([pool(model, data.encodings[i]) for i in batch])
        loss = nn.functional.cross_entropy(pooled @ head["head.weight"].T + head["head.bias"], data.labels_N[batch])
        oracle.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(mine.values(), 1.0)
        oracle.step()
    for name, parameter in body.items():
        expected = parameter.detach()[ids] if name == base.vocabulary_name else parameter.detach()
        # A key's bias has no gradient but rounding (softmax does not see it), of which Adam takes the sign.
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found[f"weights.{name}"], expected, atol=2e-5, rtol=1e-4, msg=name)
    assert_same({n: t.detach() for n, t in head.items()}, {n: found[n] for n in head})


def pool(model: nn.Module, encoding: Encoding) -> Tensor:
    hidden: Tensor = model(input_ids=torch.tensor([encoding.ids])).last_hidden_state
    return hidden[0].mean(0)


def own_weights(base: Encoder, ids: list[int]) -> Any:
    exact = tiny.weights(base, 0, ids)
    values = dict(base.masters())
    values[base.vocabulary_name] = values[base.vocabulary_name][torch.tensor(sorted(ids))]
    return replace(exact, values=values)


def test_evaluate(base: Encoder) -> None:
    adapter, dev = tiny.adapter(base), rows(base, 9, seed=1)
    found, answered = evaluate(adapter, Exam(rows=dev, score=accuracy), FeatureStore(base))
    logits = torch.cat([torch.stack(base.logits([row])) for row in tiny.rows(adapter, list(dev.encodings))])
    torch.testing.assert_close(answered, logits, atol=1e-5, rtol=0)
    assert found.epoch == 0
    assert found.value == accuracy(logits, dev.labels_N)
    assert found.loss == pytest.approx(float(cross_entropy(logits, dev.labels_N).total) / 9, abs=1e-5)


def test_trainable_count(prompted: Adapter) -> None:
    def schedule(progress: float) -> Rates:
        return HEAD(progress) if progress < 0.5 else only("soft_prompt.vectors")(progress)

    assert trainable_count(prompted, schedule, epochs=4) == 4 * 32 + 3 * 32 + 3
    assert trainable_count(prompted, schedule, epochs=1) == 3 * 32 + 3
    assert trainable_count(prompted, lambda _: {}, epochs=4) == 0


def test_a_name_that_is_no_tensor(base: Encoder) -> None:
    with pytest.raises(AssertionError, match=r"head\.wieght"):
        run(base, tiny.adapter(base), only("head.wieght"))
