"""The laws of every method: repeatable, portable, independent of neighbours, and never a silent no-op."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter, update_with_tensors
from tunewright.adapters.transfer import learned
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.inference import FeatureStore, predict, readings
from tunewright.backbones.prompted import Prompted
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Choice, Material, Method, Range
from tunewright.methods.table import METHODS
from tunewright.prompts.template import Prompt
from tunewright.runtime import generator
from tunewright.training.loop import trainable_count
from tunewright.training.loss import cross_entropy
from tunewright.training.objective import Exam
from tunewright.tuning.attempt import Workshop, attempt, prepare
from tunewright.types import Params

GetBackbone = Callable[[str], Backbone]
WIDTH, NUM_LABELS, LAYERS, HEADS, HEAD_WIDTH, INNER = 32, 3, 3, 4, 8, 48
KINDS = ("bert", "masked-roberta", "gpt2", "llama", "qwen3", "t5")
"""An encoder and a masked language model; decoders of learned and rotary positions,
the latter two with keys that pairs of heads share; an encoder-decoder."""
PROMPT = Prompt(fixed="we had one\n", row="it: {text}\nwas [MASK]")
"""The user's own."""
DOCUMENTS = ("bread", "a train")
ASKING = ("template", "prompt-search", "chain-of-thought", "prompt-ensemble", "retrieve", "instruction-prompt")
"""Methods for bases that write."""
ALONE = 1e-5
"""fp32: largest difference of a logit from the same row alone."""

LABELLING = {name: method for name, method in METHODS.items() if "classify" in method.kinds}
TRAINED = [name for name, method in METHODS.items() if method.family != "no training" and name != "linear-probe"]
"""Methods that train a body."""

every_method = pytest.mark.parametrize("method", LABELLING.values(), ids=LABELLING)
every_body = pytest.mark.parametrize("method", [METHODS[name] for name in TRAINED], ids=TRAINED)


def workshop(base: Backbone, num_train: int = 15) -> Workshop:
    """With 15 rows a step is an epoch."""
    metric = METRICS["accuracy"]
    dev = tiny.examples(9, seed=1)
    shop = prepare(tiny.task(), base, tiny.examples(num_train), dev, metric, base.max_tokens, prompt=PROMPT)
    return documented(shop)


def documented(shop: Workshop) -> Workshop:
    """With documents of the user's."""
    return replace(shop, material=replace(shop.material, documents=DOCUMENTS))


def improving(shop: Workshop) -> Workshop:
    """Each epoch counts as better than the one before, so that the last is kept."""
    ever = iter(range(1000))
    assert isinstance(shop.exam, Exam)
    return replace(shop, exam=replace(shop.exam, score=lambda *_: float(next(ever))))


def defaults(method: Method, material: Material) -> Params:
    return {name: choice.default for name, choice in method.space(material).items()}


def fit(method: Method, shop: Workshop, epochs: int, *key: str | int) -> Adapter:
    params = {**defaults(method, shop.material), "epochs": epochs}
    outcome = attempt(method, params, shop, generator("laws", *key), lambda *_: None)
    assert outcome.trained.stopped == "finished"
    return outcome.trained.adapter


def answers(adapter: Adapter, base: Backbone) -> Tensor:
    examples = tiny.examples(12, seed=2)
    encodings = base.encode_for(examples, adapter)
    return predict(adapter, encodings, FeatureStore(base))


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    update_with_tensors(digest, tensors)
    return digest.hexdigest()


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(kind: str, tiny_backbone: GetBackbone) -> Backbone:
    return tiny_backbone(kind)


@pytest.fixture(scope="module")
def fitted(base: Backbone) -> dict[str, Adapter]:
    """Each method after four steps."""
    able = {name: method for name, method in LABELLING.items() if method.refuses(base) is None}
    return {name: fit(method, improving(workshop(base)), 4) for name, method in able.items()}


@pytest.fixture(autouse=True)
def runs_here(request: pytest.FixtureRequest) -> None:
    """A base that a method refuses has no law to keep; that it is refused is a law of its own below."""
    names = request.fixturenames
    if "method" in names and "base" in names:
        reason = request.getfixturevalue("method").refuses(request.getfixturevalue("base"))
        if reason is not None:
            pytest.skip(reason)


@every_method
def test_learns_what_it_says(method: Method, base: Backbone) -> None:
    """Of the parts that change what the base computes it places one, and trains that."""
    material = workshop(base).material
    params = defaults(method, material)
    adapter = method.place(material, params, generator("laws"))
    said = set() if method.learns is None else {method.learns}
    if method.name == "combine":
        said = {"lora"} if base.answers_prompts else {"lora", "soft_prompt"}
    assert set(learned(adapter)) == said
    names = {name.split(".")[0] for k in range(20) for name in method.trained(adapter, params, k / 20)}
    assert names - {"head"} == said


@every_method
def test_whoever_scores_words_asks_for_them(method: Method, fitted: dict[str, Adapter], base: Backbone) -> None:
    """Labels of the same words, or of more than there is room for, are refused before any trial."""
    adapter, task = fitted[method.name], tiny.task()
    for label in ("bread_soup", "bread " * base.max_tokens):
        labels = ("bread soup", label, "train")
        odd = replace(task, labels=labels, descriptions=dict.fromkeys(labels, ""))
        scores = adapter.scores_phrases or adapter.members is not None
        assert (method.refusal(base, odd) is not None) or not scores


@every_method
def test_same_seed_same_predictions(method: Method, fitted: dict[str, Adapter], base: Backbone) -> None:
    again = fit(method, improving(workshop(base)), 4)
    assert again.sha256() == fitted[method.name].sha256()
    assert torch.equal(answers(again, base), answers(fitted[method.name], base))


LOAD_AND_PREDICT = """
import sys
from itertools import pairwise
from pathlib import Path
import torch
from safetensors.torch import save_file
from tests import tiny
from tunewright.adapters import folder
from tunewright.backbones.inference import FeatureStore, predict
out = Path(sys.argv[1])
found, base = {}, None
for path in sorted(out.glob("adapters/*")):
    adapter = folder.load(path)
    base = tiny.backbone(Path(adapter.base.name)) if base is None else base
    base.check(adapter)
    encodings = base.encode_for(tiny.examples(12, seed=2), adapter)
    found[path.name] = predict(adapter, encodings, FeatureStore(base))
save_file(found, out / "answers.safetensors")
"""


def test_fresh_process_same_predictions(fitted: dict[str, Adapter], base: Backbone, tmp_path: Path) -> None:
    for name, adapter in fitted.items():
        folder.save(adapter, tmp_path / "adapters" / name)
    root = Path(__file__).parents[2]
    path = {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", LOAD_AND_PREDICT, str(tmp_path)], check=True, env=path, timeout=120)
    found = load_file(tmp_path / "answers.safetensors")
    assert set(found) == {name for name, method in LABELLING.items() if method.refuses(base) is None}
    for name, adapter in fitted.items():
        assert torch.equal(found[name], answers(adapter, base)), name


@every_method
def test_neighbours_do_not_matter(method: Method, fitted: dict[str, Adapter], base: Backbone) -> None:
    """Alone, in other batches, in another order, among rows of all other methods."""
    adapter = fitted[method.name]
    expected = answers(adapter, base)
    encodings = base.encode_for(tiny.examples(12, seed=2), adapter)
    rows = tiny.rows(adapter, encodings)
    order = np.random.default_rng(3).permutation(12).tolist()
    alone = torch.cat([torch.stack(base.logits([row])) for row in rows])
    shuffled = torch.stack(base.logits([rows[k] for k in order]))
    others = [Row(encoding=base.encode_for(tiny.examples(1, seed=2), a)[0], adapter=a) for a in fitted.values()]
    crowd = torch.stack(base.logits([*others, *rows, *others]))[len(others) : -len(others)]
    for found in (alone, shuffled[np.argsort(order).tolist()], crowd):
        torch.testing.assert_close(found, expected, atol=ALONE, rtol=0)
        assert found.argmax(-1).tolist() == expected.argmax(-1).tolist()


@every_method
def test_base_is_untouched(method: Method, base: Backbone) -> None:
    bare = tiny.rows(tiny.adapter(base), base.encode(tiny.examples(4), base.max_tokens))
    weights, outputs = hash_of(base.masters()), base.features(bare)
    adapter = fit(method, improving(workshop(base)), 4)
    assert hash_of(base.masters()) == weights
    assert torch.equal(base.features(bare), outputs)
    assert adapter.base == base.identity


@every_method
def test_first_step_changes_the_adapter(method: Method, base: Backbone) -> None:
    """The record changes where something trains, and only there."""
    shop = improving(workshop(base))
    start = method.place(shop.material, defaults(method, shop.material), generator("laws")).settled()
    found = fit(method, shop, 1)
    assert (found.sha256() != start.sha256()) == (method.family != "no training")


@every_body
def test_trained_bodies_change_the_features(method: Method, base: Backbone, fitted: dict[str, Adapter]) -> None:
    """Against the bare base and against the start: what was trained is what is computed."""
    shop = workshop(base)
    start = method.place(shop.material, defaults(method, shop.material), generator("laws"))
    store = shop.material.store
    encodings = base.encode_for(shop.material.examples, start)
    after, before = (readings(a, encodings, store)[:, : base.width] for a in (fitted[method.name], start))
    for other in (before, store(encodings)):
        assert ((after - other).abs().amax(-1) > 1e-6).all()


def key_heads(kind: str) -> int:
    return 2 if kind in ("llama", "qwen3") else HEADS


def head_width(kind: str) -> int:
    return {"qwen3": 16, "t5": 10}.get(kind, HEAD_WIDTH)


def answering_lora(kind: str) -> int:
    """Inputs plus outputs of the linear layers that run only where an answer is scored: T5's two decoder layers."""
    return 2 * (8 * (WIDTH + HEADS * head_width(kind)) + 2 * (WIDTH + INNER)) if kind == "t5" else 0


def sizes(kind: str, seen: int) -> tuple[int, int]:
    """Parameters of the base with so many word embeddings, and inputs plus outputs of all its linear layers."""
    if kind in ("bert", "masked-roberta"):
        # word, position and type embeddings; per layer 4 square maps and 2 of the inner layer with biases, 2 norms
        layer = 4 * (WIDTH + 1) * WIDTH + (WIDTH + 1) * INNER + (INNER + 1) * WIDTH + 4 * WIDTH
        lora = 4 * (WIDTH + WIDTH) + 2 * (WIDTH + INNER)
        positions = tiny.MAX_TOKENS + (2 if kind == "bert" else 3)  # two types, or one and two unused positions
        return (seen + positions) * WIDTH + 2 * WIDTH + LAYERS * layer, LAYERS * lora
    if kind == "gpt2":
        # word and position embeddings; queries, keys and values in one map; a norm at the end
        layer = 4 * (WIDTH + 1) * WIDTH + (WIDTH + 1) * INNER + (INNER + 1) * WIDTH + 4 * WIDTH
        lora = (WIDTH + 3 * WIDTH) + (WIDTH + WIDTH) + 2 * (WIDTH + INNER)
        return (seen + tiny.MAX_TOKENS) * WIDTH + 2 * WIDTH + LAYERS * layer, LAYERS * lora
    if kind == "t5":
        # of the encoder, which makes the features: no biases, norms of one vector, a position's bias for each head
        inner = HEADS * head_width(kind)
        layer = 4 * WIDTH * inner + 2 * WIDTH * INNER + 2 * WIDTH
        lora = 4 * (WIDTH + inner) + 2 * (WIDTH + INNER)
        return seen * WIDTH + WIDTH + tiny.BUCKETS * HEADS + LAYERS * layer, LAYERS * lora
    # no biases, norms of one vector; Qwen3 has one for the heads of queries, one for those of keys
    queries, keys = HEADS * head_width(kind), key_heads(kind) * head_width(kind)
    layer = 2 * WIDTH * queries + 2 * WIDTH * keys + 3 * WIDTH * INNER + 2 * WIDTH
    layer += 2 * head_width(kind) if kind == "qwen3" else 0
    lora = 2 * (WIDTH + queries) + 2 * (WIDTH + keys) + 3 * (WIDTH + INNER)
    return seen * WIDTH + WIDTH + LAYERS * layer, LAYERS * lora


@every_method
def test_trainable_count(method: Method, kind: str, base: Backbone) -> None:
    """The formula of the method's page, from the sizes of the model alone."""
    shop = workshop(base)
    params = defaults(method, shop.material)
    adapter = method.place(shop.material, params, generator("laws"))
    head = (WIDTH + 1) * NUM_LABELS
    seen = len({i for e in shop.material.rows.encodings for i in e.ids})
    whole, lora = sizes(kind, seen)
    length, rank = int(params.get("length", 0)), int(params.get("rank", 0))
    expected = {
        "majority": 0,
        "template": 0,
        "zero-shot": 0,
        "few-shot": 0,
        "soft-prompt": length * WIDTH + head,
        "p-tuning": length * WIDTH + 3 * (WIDTH + 1) * WIDTH + head,
        "prefix": 2 * LAYERS * length * key_heads(kind) * head_width(kind) + head,
        "linear-probe": head,
        "lora": rank * lora + head,
        "prompt-search": 0,
        "chain-of-thought": 0,
        "prompt-ensemble": 0,
        "retrieve": 0,
        "instruction-prompt": length * WIDTH,
        "combine": rank * (lora + answering_lora(kind)) + (0 if base.answers_prompts else length * WIDTH + head),
        "full": whole + head,
        "gradual-unfreezing": whole + head,
    }
    counted = trainable_count(adapter, lambda p: method.trained(adapter, params, p), epochs=8)
    assert counted == expected[method.name]


@every_method
def test_what_trains_gets_a_gradient(method: Method, base: Backbone) -> None:
    """Every tensor that the schedule names, from a start with a little noise (half of a LoRA starts at zero)."""
    shop = workshop(base)
    params = defaults(method, shop.material)
    start = method.place(shop.material, params, generator("laws"))
    names = {name for k in range(20) for name in method.trained(start, params, k / 20)}
    assert bool(names) == (method.family != "no training")
    tensors = start.tensors()
    assert names <= set(tensors)
    noisy = {n: (tensors[n] + tiny.normal(k, *tensors[n].shape, scale=0.01)) for k, n in enumerate(sorted(names))}
    live = start.with_tensors({n: t.requires_grad_() for n, t in noisy.items()})
    logits = torch.stack(base.logits(tiny.rows(live, base.encode_for(shop.material.examples, live))))
    if names:
        cross_entropy(logits, shop.material.rows.labels_N).total.backward()
    for name in names:
        gradient = noisy[name].grad
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


@every_method
def test_schedule(method: Method, base: Backbone) -> None:
    """Factors are positive, and what trains at one time is no less later."""
    material = workshop(base).material
    params = defaults(method, material)
    adapter = method.place(material, params, generator("laws"))
    trained = [method.trained(adapter, params, k / 20) for k in range(20)]
    assert all(rate > 0 for rates in trained for rate in rates.values())
    assert all(set(early) <= set(late) for early, late in pairwise(trained))


@every_method
def test_space(method: Method, base: Backbone) -> None:
    """Defaults lie inside, and every choice can be placed and answers with finite numbers."""
    material = workshop(base).material
    space = method.space(material)
    start = defaults(method, material)
    for name, choice in space.items():
        if isinstance(choice, Range):
            assert 0 < choice.low <= choice.default <= choice.high
            continue
        assert len(set(choice.options)) == len(choice.options) > 0
        for option in choice.options:
            adapter = method.place(material, {**start, name: option}, generator("laws"))
            assert answers(adapter, base).isfinite().all(), (name, option)


@every_method
def test_shortest_inputs(method: Method, base: Backbone) -> None:
    """Eight tokens are the least a user may ask for: there is something to search, and it fits."""
    shop = prepare(
        tiny.task(), base, tiny.examples(15), tiny.examples(9, seed=1), METRICS["accuracy"], 8, prompt=PROMPT
    )
    shop = documented(shop)
    assert all(c.options for c in method.space(shop.material).values() if isinstance(c, Choice))
    adapter = fit(method, shop, 2)
    assert adapter.prefix_tokens <= 8 - 3
    assert answers(adapter, base).isfinite().all()


@pytest.mark.parametrize("model", [*tiny.KINDS, "masked-electra", *tiny.DECODERS, "bart"])
@every_method
def test_every_kind_of_model(method: Method, model: str, tiny_backbone: GetBackbone) -> None:
    """It is fitted and answers, or it is refused with a reason."""
    base = tiny_backbone(model)
    reason = method.refuses(base)
    if method.name in ASKING:
        able = tiny.DECODERS if method.name == "chain-of-thought" else (*tiny.MASKED, *tiny.DECODERS, *tiny.SEQ2SEQ)
        assert (reason is None) == (model in able)
    else:
        assert (reason is None) == (method.name != "prefix" or model not in tiny.WITHOUT_PREFIX)
    if reason is None:
        adapter = fit(method, workshop(base, num_train=9), 2)
        base.check(adapter)
        found = answers(adapter, base)
        assert found.shape == (12, NUM_LABELS)
        assert found.isfinite().all()


@every_method
def test_over_long_texts_are_cut(method: Method, base: Backbone) -> None:
    """What is trained and scored sees what is served: as much of a text as prompt or prefix leave room for."""
    long = [replace(e, text=" ".join([e.text] * 40)) for e in tiny.examples(6)]
    shop = documented(prepare(tiny.task(), base, long, long, METRICS["accuracy"], base.max_tokens, prompt=PROMPT))
    params = {**defaults(method, shop.material), "epochs": 2}
    trained = attempt(method, params, shop, generator("laws"), lambda *_: None).trained
    adapter, labels = trained.adapter, shop.material.rows.labels_N
    encodings = base.encode_for(long, adapter)
    for each in adapter.each:
        taken = each.prefix_tokens
        if isinstance(base, Prompted) and each.template is not None:
            taken += len(base.fixed_ids(each.template.fixed))
            taken += 0 if base.answers_apart else base.answer_tokens(each)
        # Inside a template a text is cut between tokens, and what is left of it may then be a token shorter.
        slack, cut = 0 if each.template is None else 1, base.encode_for(long, each)
        assert all(0 <= base.max_tokens - taken - len(e.ids) <= slack and e.num_cut > 0 for e in cut)
    loss = cross_entropy(predict(adapter, encodings, FeatureStore(base)), labels)
    assert trained.best is not None
    assert trained.best.loss == pytest.approx(float(loss.total) / loss.count, abs=1e-4)
