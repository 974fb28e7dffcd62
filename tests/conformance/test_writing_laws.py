"""The laws of every method that writes: the same texts by seed, in a fresh process, alone and in any company."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tests.conformance.test_laws import ALONE, defaults, documented, hash_of
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Reasoning
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Generation, Row
from tunewright.backbones.inference import FeatureStore, answer
from tunewright.backbones.writer import Writer
from tunewright.evaluation.metrics import METRICS
from tunewright.methods.base import Method
from tunewright.methods.table import METHODS
from tunewright.runtime import generator
from tunewright.training.objective import TextExam
from tunewright.tuning.attempt import Workshop, attempt, prepare
from tunewright.types import Example, Task

WRITING = {
    name: method for name, method in METHODS.items() if "generate" in method.kinds and method.needs != "template"
}
RUNNING = {name: method for name, method in WRITING.items() if method.runs_base}
"""All but the floors, which are texts already."""

TASK = Task(name="shorten", labels=(), descriptions={}, metric="rouge-l", kind="generate")

every_method = pytest.mark.parametrize("method", WRITING.values(), ids=WRITING)
every_running = pytest.mark.parametrize("method", RUNNING.values(), ids=RUNNING)


def rows(count: int, seed: int = 0) -> list[Example]:
    """Sentences, and their first two words as the answer."""
    return [replace(e, target=" ".join(e.text.split()[:2]), label=None) for e in tiny.examples(count, seed)]


def asked() -> list[Example]:
    return tiny.examples(12, seed=2)


def workshop(base: Writer) -> Workshop:
    """Each epoch counts as better than the one before, so that the last is kept."""
    dev = [replace(e, references=(str(e.target),)) for e in rows(4, seed=1)]
    shop = prepare(TASK, base, rows(15), dev, METRICS["rouge-l"], base.max_tokens)
    shop, ever = documented(shop), iter(range(1000))
    assert isinstance(shop.exam, TextExam)
    return replace(shop, exam=replace(shop.exam, score=lambda _: float(next(ever))))


def fit(method: Method, base: Writer) -> Adapter:
    """After four steps."""
    shop = workshop(base)
    params = {**defaults(method, shop.material), "epochs": 4}
    if method.name == "few-shot":
        params["shots"] = 2
    if base.answers_apart and "lr" in params:  # at a decoder's rates it learns in four steps to write nothing
        params["lr"] = float(params["lr"]) / 10
    adapter = attempt(method, params, shop, generator("laws"), lambda *_: None).trained.adapter
    # A random model writes no cue, but letters: there is something to cut out.
    return adapter if adapter.reasoning is None else replace(adapter, reasoning=Reasoning(cue="e"))


def texts(adapter: Adapter, base: Writer) -> list[str]:
    return [each.answer for each in answer(adapter, asked(), FeatureStore(base))]


@pytest.fixture(scope="module", params=["gpt2", "llama", "bart"])
def base(request: pytest.FixtureRequest, tiny_backbone: Callable[[str], Backbone]) -> Writer:
    found = tiny_backbone(str(request.param))
    assert isinstance(found, Writer)
    return found


@pytest.fixture(scope="module")
def fitted(base: Writer) -> dict[str, Adapter]:
    return {name: fit(method, base) for name, method in WRITING.items() if method.refuses(base) is None}


@pytest.fixture(autouse=True)
def runs_here(request: pytest.FixtureRequest) -> None:
    """A base that a method refuses has no law to keep."""
    if "method" in request.fixturenames:
        reason = request.getfixturevalue("method").refuses(request.getfixturevalue("base"))
        if reason is not None:
            pytest.skip(reason)


@every_method
def test_same_seed_same_texts(method: Method, fitted: dict[str, Adapter], base: Writer) -> None:
    again = fit(method, base)
    assert again.sha256() == fitted[method.name].sha256()
    found = texts(again, base)
    assert found == texts(fitted[method.name], base)
    raw = texts(replace(again, reasoning=None), base)  # of which an answer may be cut out
    assert len(set(raw)) > 1  # what is written hangs on what is read


LOAD_AND_WRITE = """
import json, sys
from pathlib import Path
from tests import tiny
from tests.conformance.test_writing_laws import texts
from tunewright.adapters import folder
found, base = {}, None
for path in sorted(Path(sys.argv[1]).glob("*")):
    adapter = folder.load(path)
    base = tiny.backbone(Path(adapter.base.name)) if base is None else base
    base.check(adapter)
    found[path.name] = texts(adapter, base)
print(json.dumps(found))
"""


def test_fresh_process_same_texts(fitted: dict[str, Adapter], base: Writer, tmp_path: Path) -> None:
    for name, adapter in fitted.items():
        folder.save(adapter, tmp_path / name)
    root = Path(__file__).parents[2]
    path = {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    call = [sys.executable, "-c", LOAD_AND_WRITE, str(tmp_path)]
    done = subprocess.run(call, check=True, env=path, timeout=120, capture_output=True, text=True)
    assert json.loads(done.stdout) == {name: texts(adapter, base) for name, adapter in fitted.items()}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@every_running
def test_neighbours_do_not_matter(method: Method, temperature: float, fitted: dict[str, Adapter], base: Writer) -> None:
    """Token for token: alone, in another order, few at a time, and among rows of all other methods; drawn ones too.

    Of several members the first: the base itself writes for one at a time.
    """
    crowd = {name: _decoding(adapter.each[0], temperature) for name, adapter in fitted.items() if name in RUNNING}
    adapter = crowd[method.name]
    mine = [Row(encoding=e, adapter=adapter) for e in base.encode_for(asked(), adapter)]
    others = [Row(encoding=base.encode_for(asked(), a)[0], adapter=a) for a in crowd.values()]
    expected = base.generate(mine, _generators(12))
    order = np.random.default_rng(3).permutation(12).tolist()
    shuffled = base.generate([mine[k] for k in order], [_generators(12)[k] for k in order])
    found = (
        [base.generate([row], [draws])[0] for row, draws in zip(mine, _generators(12), strict=True)],
        [shuffled[k] for k in np.argsort(order).tolist()],
        base.generate(mine, _generators(12), most_rows=5),
        base.generate([*others, *mine], [*_generators(len(others)), *_generators(12)])[len(others) :],
    )
    for each in found:
        _same(each, expected)
    assert len({one.ids for one in expected}) > 1


def _decoding(adapter: Adapter, temperature: float) -> Adapter:
    return replace(adapter, decoding=Decoding(max_new_tokens=8, temperature=temperature))


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(count)]


def _same(found: list[Generation], expected: list[Generation]) -> None:
    assert [(one.ids, one.text, one.finish_reason) for one in found] == [
        (one.ids, one.text, one.finish_reason) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=ALONE)


@every_method
def test_base_is_untouched(method: Method, base: Writer) -> None:
    """Its weights, and what it writes by itself."""
    bare = [Row(encoding=e, adapter=tiny.adapter(base)) for e in base.encode(asked(), base.max_tokens)]
    weights = hash_of(base.masters())
    written = base.generate(bare, decoding=Decoding(max_new_tokens=8))
    adapter = fit(method, base)
    assert texts(adapter, base)
    assert hash_of(base.masters()) == weights
    assert base.generate(bare, decoding=Decoding(max_new_tokens=8)) == written
    assert adapter.base == base.identity
