"""The laws of every method for what PEFT runs: a type on an encoder, one on a decoder."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests import tiny
from tests.commands import write_topics
from tests.conformance.test_laws import (
    LOAD_AND_PREDICT,
    NUM_LABELS,
    WIDTH,
    answers,
    defaults,
    fit,
    hash_of,
    improving,
    workshop,
)
from tests.parity.test_peft import plain_model, run_peft
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Tuner
from tunewright.api import compare
from tunewright.backbones import tuners
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.foreign import read_foreign
from tunewright.errors import AdapterError, ConfigError
from tunewright.methods.base import Choice, Method
from tunewright.methods.table import METHODS, chosen, find
from tunewright.runtime import generator
from tunewright.training.loop import trainable_count
from tunewright.training.loss import cross_entropy
from tunewright.tuning.progress import Silent

GetBackbone = Callable[[str], Backbone]
GetFolder = Callable[[str], Path]
PAIRS = (("bert", "peft:ia3"), ("llama", "peft:vera"))
"""Vectors on some layers by PEFT's table; projections that all layers share and that do not learn."""
NEAR = 1e-5

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(scope="module", params=PAIRS, ids=[name for _, name in PAIRS])
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    kind, name = request.param
    return str(kind), str(name)


@pytest.fixture(scope="module")
def base(pair: tuple[str, str], tiny_backbone: GetBackbone) -> Backbone:
    return tiny_backbone(pair[0])


@pytest.fixture(scope="module")
def method(pair: tuple[str, str]) -> Method:
    return find(pair[1])


@pytest.fixture(scope="module")
def every(tiny_backbone: GetBackbone) -> dict[str, tuple[Backbone, Adapter]]:
    """Method -> its base, and what it is after four steps."""
    found = {}
    for kind, name in PAIRS:
        base, method = tiny_backbone(kind), find(name)
        assert method.refusal(base, tiny.task()) is None
        found[name] = (base, fit(method, improving(workshop(base)), 4))
    return found


@pytest.fixture(scope="module")
def fitted(pair: tuple[str, str], every: dict[str, tuple[Backbone, Adapter]]) -> Adapter:
    return every[pair[1]][1]


def tuner(adapter: Adapter) -> Tuner:
    assert adapter.tuner is not None
    return adapter.tuner


def test_same_seed_same_predictions(method: Method, base: Backbone, fitted: Adapter) -> None:
    weights = hash_of(base.masters())
    again = fit(method, improving(workshop(base)), 4)
    assert again.sha256() == fitted.sha256()
    assert torch.equal(answers(again, base), answers(fitted, base))
    assert hash_of(base.masters()) == weights


def test_fresh_base_same_predictions(
    pair: tuple[str, str], fitted: Adapter, base: Backbone, tiny_folder: GetFolder, tmp_path: Path
) -> None:
    folder.save(fitted, tmp_path / "one")
    loaded = folder.load(tmp_path / "one")
    assert loaded.sha256() == fitted.sha256()
    assert torch.equal(answers(loaded, tiny.backbone(tiny_folder(pair[0]))), answers(fitted, base))


@pytest.mark.slow
def test_fresh_process_same_predictions(every: dict[str, tuple[Backbone, Adapter]], tmp_path: Path) -> None:
    for name, (_, adapter) in every.items():
        folder.save(adapter, tmp_path / "adapters" / name)
    root = Path(__file__).parents[2]
    path = {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    script = LOAD_AND_PREDICT.replace(" if base is None else base", "")  # each on its own
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, env=path, timeout=120)
    found = load_file(tmp_path / "answers.safetensors")
    assert found.keys() == every.keys()
    for name, (base, adapter) in every.items():
        assert torch.equal(found[name], answers(adapter, base)), name


def test_neighbours_do_not_matter(method: Method, fitted: Adapter, base: Backbone) -> None:
    """Among rows of another tuner, of a LoRA and of the bare base: neither side changes."""
    shop = improving(workshop(base))
    found = [fitted, fit(method, shop, 1, "other"), fit(METHODS["lora"], shop, 2), tiny.adapter(base)]
    examples = tiny.examples(5, seed=2)
    rows = [Row(encoding=e, adapter=a) for a in found for e in base.encode_for(examples, a)]
    alone = torch.cat([torch.stack(base.logits([row])) for row in rows])
    order = np.random.default_rng(3).permutation(len(rows)).tolist()
    together = torch.stack(base.logits([rows[k] for k in order]))
    torch.testing.assert_close(together[np.argsort(order).tolist()], alone, atol=NEAR, rtol=0)
    assert not fitted.mixes
    assert len({base.pass_of(row) for row in rows}) == 3


def test_what_learns(method: Method, base: Backbone, fitted: Adapter) -> None:
    """All that PEFT says learns has a gradient and moves; nothing else does; the count is that of PEFT's layers."""
    shop = workshop(base)
    params = defaults(method, shop.material)
    start = method.place(shop.material, params, generator("laws"))
    names = set(method.trained(start, params, 0.0))
    tensors = start.tensors()
    noisy = {n: tensors[n] + tiny.normal(k, *tensors[n].shape, scale=0.01) for k, n in enumerate(sorted(names))}
    live = start.with_tensors({n: t.requires_grad_() for n, t in noisy.items()})
    logits = torch.stack(base.logits(tiny.rows(live, base.encode_for(shop.material.examples, live))))
    cross_entropy(logits, shop.material.rows.labels_N).total.backward()
    for name, tensor in noisy.items():
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name
    moved = {name for name, tensor in fitted.tensors().items() if not torch.equal(tensor, tensors[name])}
    assert moved - {"head.bias"} == names - {"head.bias"}
    inner, layers, key_width = 48, 3, 16
    vectors = {
        "peft:ia3": 2 * WIDTH + WIDTH + inner,  # keys, values; before both output layers
        # d of rank 256 and b of each layer's width: queries and output, keys and values, gate and up, down
        "peft:vera": 7 * 256 + 2 * WIDTH + 2 * key_width + 2 * inner + WIDTH,
    }
    counted = trainable_count(start, lambda p: method.trained(start, params, p), epochs=8)
    assert counted == layers * vectors[method.name] + (WIDTH + 1) * NUM_LABELS


def test_changes_the_features(fitted: Adapter, base: Backbone) -> None:
    found = tiny.encodings(base, ["bread with soup", "a train"])
    with_it, bare = (base.features(tiny.rows(a, found)) for a in (fitted, tiny.adapter(base)))
    assert ((with_it - bare).abs().amax(-1) > 1e-6).all()


def test_plain_peft_computes_the_same(
    pair: tuple[str, str], fitted: Adapter, base: Backbone, tiny_folder: GetFolder, tmp_path: Path
) -> None:
    """PEFT loads the folder beside ours on its own; and what it saves again is read here and gives the same."""
    folder.save(fitted, tmp_path / "ours")
    model = peft.PeftModel.from_pretrained(plain_model(tiny_folder(pair[0])), str(tmp_path / "ours" / "peft" / "tuner"))
    found = tiny.encodings(base, ["soup", "the train was late and my luggage is in the airport"])
    with torch.no_grad():
        hidden = run_peft(model.eval(), found)
    encoder = pair[0] == "bert"
    theirs = torch.stack([each.mean(0) if encoder else each[-1] for each in hidden])
    ours = base.features(tiny.rows(fitted, found))
    torch.testing.assert_close(ours, theirs, atol=NEAR, rtol=0)
    model.save_pretrained(str(tmp_path / "theirs"))
    foreign = read_foreign(tmp_path / "theirs", base)
    assert hash_of(tuner(foreign).values) == hash_of(tuner(fitted).values)
    torch.testing.assert_close(base.features(tiny.rows(foreign, found)), theirs, atol=NEAR, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(
            task_type="CAUSAL_LM", r=3, lora_alpha=12, target_modules=["q_proj", "down_proj"], use_dora=True
        ),
        peft.IA3Config(task_type="CAUSAL_LM"),
    ],
    ids=["dora", "ia3"],
)
def test_folder_of_a_language_model(
    config: Any, tiny_backbone: GetBackbone, tiny_folder: GetFolder, tmp_path: Path
) -> None:
    """Its layers have longer names there; each token of an answer is as likely here as there."""
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder("llama"), dtype=torch.float32)
    model = peft.get_peft_model(plain, config).eval()
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(tiny.normal(k, *parameter.shape, scale=0.2))
    model.save_pretrained(str(tmp_path / "theirs"))
    base: Any = tiny_backbone("llama")
    adapter = read_foreign(tmp_path / "theirs", base)
    (encoding,) = tiny.encodings(base, ["the train was"])
    answer = base.encode_answer("late and old", ends=True)
    (found,) = base.answer_log_probs([Row(encoding=encoding, adapter=adapter)], [answer])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*encoding.ids, *answer]])).logits[0, len(encoding.ids) - 1 : -1]
    theirs = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
    torch.testing.assert_close(found, theirs, atol=NEAR, rtol=0)


def test_rank_is_searched_where_there_is_one(tiny_backbone: GetBackbone) -> None:
    base = tiny_backbone("bert")
    material = workshop(base).material
    assert "rank" not in find("peft:ia3").space(material)
    assert find("peft:vera").space(material)["rank"] == Choice(options=(256, 128, 512))
    placed = tuner(find("peft:loha").place(material, {"rank": 4}, generator("x")))
    assert (placed.config["r"], placed.config["alpha"]) == (4, 4)
    with pytest.raises(AdapterError, match=r"PEFT's miss cannot be put on it: `r` \(64\) must be"):
        find("peft:miss").place(material, {"rank": 64}, generator("x"))


def test_types_that_do_not_run(tiny_backbone: GetBackbone) -> None:
    """PEFT's reason in one line, of a layer that the checkpoint keeps in another form too."""
    for kind, name, said in (
        ("bert", "peft:miss", "PEFT's miss cannot be put on it: `r` (64) must be less than"),
        ("gpt2", "peft:hra", "PEFT's hra cannot be put on it: Target module Conv1D(nf=96, nx=32) is not supported"),
    ):
        reason = find(name).refusal(tiny_backbone(kind), tiny.task())
        assert said in str(reason)
        assert "\n" not in str(reason)
    assert find("peft:ia3").refusal(tiny_backbone("gpt2"), tiny.task()) is None


def test_comparison(tiny_folder: GetFolder, tmp_path: Path) -> None:
    """One is trained and shipped, the other skipped with PEFT's reason."""
    data = write_topics(tmp_path / "topics.csv", 36)
    run = compare(
        str(data), model=str(tiny_folder("bert")), methods="peft:ia3,peft:miss,majority", trials=1, seeds=1, folds=1,
        out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    found = {candidate.method: candidate for candidate in run.comparison.candidates}
    assert {name: each.status for name, each in found.items()} == {
        "majority": "ok", "peft:ia3": "ok", "peft:miss": "skipped",
    }  # fmt: skip
    assert "`r` (64) must be less than" in str(found["peft:miss"].reason)
    assert found["peft:ia3"].cost.trainable_parameters == 3 * (3 * WIDTH + 48) + (WIDTH + 1) * NUM_LABELS
    assert folder.load(run.adapter_folder("peft+ia3")).tuner is not None


def test_names() -> None:
    assert chosen(("peft:ia3", "lora", "majority")) == ("majority", "lora", "peft:ia3")
    assert chosen(("all", "peft:dora")) == (*METHODS, "peft:dora")
    with pytest.raises(ConfigError) as caught:
        chosen(("peft:ia", "peft:adalora", "peft", "lara"))
    ia, adalora, bare, lara = caught.value.faults
    assert ia.startswith("unknown PEFT type 'ia'. Did you mean 'ia3'? Allowed: adamss, beft, boft,")
    assert adalora.startswith("peft:adalora has no place among the methods: its ranks are shared out anew")
    assert bare.startswith("unknown PEFT type ''. Allowed: ")
    assert lara.startswith("unknown method 'lara'. Did you mean 'lora'?")
    assert lara.endswith("combine, peft:TYPE.")


def test_peft_is_an_extra(monkeypatch: pytest.MonkeyPatch, fitted: Adapter, base: Backbone) -> None:
    said = "PEFT is not installed. Run: pip install 'tunewright[peft]'."
    for module in ("peft", "peft.mapping"):
        monkeypatch.setitem(sys.modules, module, None)
    tuners.types.cache_clear()
    with pytest.raises(ConfigError) as caught:
        chosen(["peft:ia3"])
    assert caught.value.faults == (f"peft:ia3: {said}",)
    with pytest.raises(AdapterError) as broken:
        base.check(fitted)
    assert str(broken.value) == said


def test_another_size_is_refused(fitted: Adapter, base: Backbone) -> None:
    name = tuner(fitted).trained[0]
    wrong = fitted.with_tensors({f"tuner.{name}": torch.ones(3)})
    with pytest.raises(AdapterError, match=r"is \(3,\), its base needs"):
        base.check(wrong)
