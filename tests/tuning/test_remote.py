"""Whole runs with a model behind an endpoint: what it answers, what is paid, what happens when it goes away."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.commands import Call, write_topics
from tests.serve.live import ABOUT, serving
from tests.vendor import KEY, Fault, Vendor, guess, refusal, selling
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.api import Run, compare
from tunewright.backbones.dialect import Ask
from tunewright.backbones.endpoint import Endpoint, Patience
from tunewright.backbones.inference import FeatureStore
from tunewright.backbones.remote import Remote
from tunewright.data.labels import in_words
from tunewright.evaluation.cost import TokenPrices
from tunewright.files import read_lines
from tunewright.runs.comparison import Candidate
from tunewright.serve.predictor import Predictor
from tunewright.tuning.bought import bought
from tunewright.tuning.progress import Clock, Purse, Silent, Start
from tunewright.tuning.spending import Spending
from tunewright.types import Example

LABELS = tuple(tiny.GROUPS)
PRICES = "models: {big: {input: 2, output: 8, cached_input: 0.5}}\nusd_per_hour: 0.1\n"


def by_topic(prompt: str) -> dict[str, float]:
    """Right more often than not, by the words of the last text."""
    text = prompt.rsplit("Text:", 1)[-1]
    likely = guess(prompt, LABELS)
    weights = {k: p * (1 + 4 * sum(word in text for word in tiny.GROUPS[k])) for k, p in likely.items()}
    return {label: 0.9 * weight / sum(weights.values()) for label, weight in weights.items()}


def furnished(place: Path) -> Path:
    """Rows, prices and a prompt."""
    write_topics(place / "topics.csv", 36)
    (place / "prices.yaml").write_text(PRICES, encoding="utf-8")
    (place / "prompt.txt").write_text("One of {labels}.\nText: {text}\nLabel:", encoding="utf-8")
    return place


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    return furnished(tmp_path)


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with selling(Vendor(table=by_topic)) as found:
        yield found


def run(home: Path, vendor: Vendor, **settings: Any) -> Run:
    usual: dict[str, Any] = {"trials": 2, "seeds": 1, "folds": 1, "out": str(home / "run"), "listener": Silent()}
    usual |= {"prices": str(home / "prices.yaml"), "model": [f"openai:big@{vendor.url}"]}
    asked = usual | {"methods": ["majority", "template", "zero-shot", "lora"]} | settings
    if "template" in asked["methods"]:
        asked["template"] = str(home / "prompt.txt")
    return compare(str(home / "topics.csv"), **asked)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished run, and what had been asked by its end."""

    home: Path
    vendor: Vendor
    run: Run
    num_asked: int
    input_tokens: int
    output_tokens: int


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    home = furnished(tmp_path_factory.mktemp("remote"))
    with selling(Vendor(table=by_topic)) as vendor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OPENAI_API_KEY", KEY)
            patch.setenv("TUNEWRIGHT_CACHE", str(home / "cache"))
            found = run(home, vendor)
        sums = {"input_tokens": vendor.input_tokens, "output_tokens": vendor.output_tokens}
        yield Done(home=home, vendor=vendor, run=found, num_asked=len(vendor.asked), **sums)


@pytest.fixture
def done(done_once: Done, monkeypatch: pytest.MonkeyPatch) -> Done:
    """The same, with its key and cache."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(done_once.home / "cache"))
    return done_once


def candidate(found: Run, name: str) -> Candidate:
    return next(c for c in found.comparison.candidates if c.id == name)


def asked_as(row: dict[str, Any]) -> str:
    return f"One of {', '.join(map(in_words, sorted(LABELS)))}.\nText: {row['text']}\nLabel:"


def test_a_comparison_is_what_the_table_implies_and_counts_every_token(done: Done) -> None:
    found, vendor = done.run, done.vendor
    own, skipped = candidate(found, "template"), candidate(found, "lora")
    assert (skipped.status, skipped.reason) == (
        "skipped",
        f"openai:big@{vendor.url} answers elsewhere: there are no weights here to train on",
    )
    rows = read_lines(found.folder / "test.jsonl")
    answers = read_lines(found.folder / "predictions" / "template" / "seed-0.jsonl")
    labels = found.comparison.task.labels
    adapter = folder.load(found.adapter_folder("template"))
    for row, answer in zip(rows, answers, strict=True):
        likely = by_topic(asked_as(row))
        assert answer["label"] == max(labels, key=lambda label: likely[label])
        logits = np.array([math.log(likely[label]) for label in labels]) / adapter.temperature
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(answer["probabilities"], expected, rtol=1e-5)
    ledger = found.comparison.ledger
    assert ledger is not None
    paid = ledger.requests
    assert paid is not None
    assert (paid.sent, paid.input_tokens, paid.output_tokens) == (
        done.num_asked,
        done.input_tokens,
        done.output_tokens,
    )
    assert paid.price == pytest.approx((2 * done.input_tokens + 8 * done.output_tokens) / 1e6)
    assert paid.price is not None
    assert ledger.price == pytest.approx(0.1 * ledger.wall_s / 3600 + paid.price)
    by_candidate = [c.cost.requests for c in found.comparison.candidates if c.cost.requests is not None]
    assert sum(each.sent for each in by_candidate) == paid.sent - 1  # one to find out what it understands
    sizes = [len(asked_as(row).split()) for row in rows]
    prices = found.comparison.decision
    assert prices is not None
    assert own.cost.price == pytest.approx(1000 * (2 * np.mean(sizes) + 8) / 1e6, rel=1e-4)
    texts = sum(len(row["text"]) for row in rows) / sum(len(asked_as(row)) for row in rows)
    assert own.cost.extra_tokens_per_request == pytest.approx(np.mean(sizes) * (1 - texts), abs=1e-3)
    assert (own.illegal_share, found.comparison.backbones[0].kind) == (None, "remote")
    assert "cannot be verified" in adapter.about["weights"]


def test_a_resumed_run_and_a_second_one_pay_nothing(done: Done) -> None:
    first, home, vendor = done.run, done.home, done.vendor
    tries, lines = vendor.tries, read_lines(first.folder / "requests.jsonl")
    resumed = run(home, vendor, resume=True)
    assert vendor.tries == tries
    assert [line for line in lines if "model" in line] == [
        line for line in read_lines(resumed.folder / "requests.jsonl") if "model" in line
    ]
    assert candidate(first, "template") == candidate(resumed, "template")
    again = run(home, vendor, out=str(home / "again"))
    assert vendor.tries == tries
    assert again.comparison.ledger is not None
    taken = again.comparison.ledger.requests
    assert taken is not None
    assert (taken.sent, taken.price) == (0, 0)
    assert taken.known > 30
    own, other = candidate(first, "zero-shot").cost, candidate(again, "zero-shot").cost
    assert (own.price, own.latency) == (other.price, other.latency)


def test_a_resumed_run_has_its_answers_where_the_cache_is_lost(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked, not even what it understands; without its own file all that is still needed is."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "empty"))
    shutil.copytree(done.run.folder, tmp_path / "moved")
    tries, sent = done.vendor.tries, {"out": str(tmp_path / "moved"), "resume": True}
    resumed = run(done.home, done.vendor, **sent)
    assert done.vendor.tries == tries
    assert candidate(resumed, "template") == candidate(done.run, "template")
    assert not (tmp_path / "empty").exists()
    (tmp_path / "moved" / "answers.sqlite").unlink()
    run(done.home, done.vendor, **sent)
    assert done.vendor.tries > tries


def test_the_key_is_in_no_file(home: Path, vendor: Vendor) -> None:
    vendor.faults.extend([Fault(), refusal(500, f"no {KEY}", retry_after_ms="1"), refusal(401, f"wrong {KEY}")])
    with pytest.raises(Exception, match="key is refused") as failed:
        run(home, vendor)
    assert KEY not in str(failed.value)
    run(home, vendor)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_written_answers_are_read_and_illegal_ones_counted(home: Path, vendor: Vendor) -> None:
    """Of every third text or so the answer is no label: it is told, and counts as the first label."""
    vendor.most_top = 0
    vendor.table = lambda prompt: (
        {"no idea": 1.0} if len(prompt) % 3 == 0 else {max(p := by_topic(prompt), key=lambda k: p[k]): 1.0}
    )
    found = run(home, vendor, methods=["majority", "template"])
    rows = read_lines(found.folder / "test.jsonl")
    prompts = [asked_as(row) for row in rows]
    illegal = [len(prompt) % 3 == 0 for prompt in prompts]
    assert 0 < sum(illegal) < len(rows)
    own = candidate(found, "template")
    assert own.illegal_share == pytest.approx(np.mean(illegal))
    assert own.remarks == (f"{np.mean(illegal):.1%} were none of the labels and count as the first of them",)
    answers = read_lines(found.folder / "predictions" / "template" / "seed-0.jsonl")
    first = found.comparison.task.labels[0]
    for prompt, answer, is_illegal in zip(prompts, answers, illegal, strict=True):
        expected = first if is_illegal else next(iter(vendor.table(prompt)))
        assert answer["label"] == expected


def test_an_endpoint_that_goes_away_fails_its_candidates_alone(
    home: Path, vendor: Vendor, tiny_folder: Callable[[str], Path]
) -> None:
    models = [f"openai:big@{vendor.url}", str(tiny_folder("gpt2"))]

    def table(prompt: str) -> dict[str, float]:
        if len(vendor.asked) > 10 and not vendor.faults:
            vendor.faults.extend([refusal(402, "Insufficient balance")] * 999)
        return by_topic(prompt)

    vendor.table = table
    found = run(home, vendor, model=models, methods=["majority", "zero-shot"], trials=2)
    gone, here = candidate(found, "zero-shot@big"), candidate(found, f"zero-shot@{Path(models[1]).name}")
    assert gone.status == "failed"
    assert "out of credit" in str(gone.reason)
    assert here.status == "ok"
    assert found.comparison.ledger is not None
    paid = found.comparison.ledger.requests
    assert paid is not None
    assert paid.sent == len(vendor.asked) > 10


def test_a_limit_of_the_cost_is_never_exceeded(home: Path, vendor: Vendor) -> None:
    limit = 0.008
    found = run(home, vendor, max_cost=limit, methods=["majority", "zero-shot", "few-shot", "prompt-search"])
    ledger = found.comparison.ledger
    assert ledger is not None
    assert ledger.requests is not None
    assert ledger.requests.price is not None
    assert 0.3 * limit < ledger.requests.price <= limit
    assert ledger.not_done
    (home / "prices.yaml").write_text("usd_per_hour: 0.1", encoding="utf-8")
    with pytest.raises(Exception, match=r"`max_cost` cannot be kept: no price is known of big\. Give one in --prices"):
        run(home, vendor, max_cost=limit, out=str(home / "other"))


def test_texts_are_generated(home: Path, vendor: Vendor) -> None:
    """The last word of the input, for which a prompt with examples asks."""
    table = home / "echo.jsonl"
    rows = [{"input": f"say {w} {k}", "target": w} for k, w in enumerate(tiny.WORDS)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    vendor.table = lambda prompt: {prompt.rsplit("say ", 1)[-1].split()[0]: 0.9}
    (home / "prompt.txt").write_text("Repeat.\n{text}\n", encoding="utf-8")
    found = compare(
        str(table), task="generate", model=[f"openai:big@{vendor.url}"], template=str(home / "prompt.txt"), trials=3,
        methods=["copy-input", "template", "few-shot", "prompt-search"], seeds=1, folds=1, out=str(home / "texts"),
        metric="exact-match", listener=Silent(),
    )  # fmt: skip
    tested = {c.id: c.test.value for c in found.comparison.candidates if c.test is not None}
    assert tested == {"copy-input": 0.0, "template": 1.0, "few-shot": 1.0, "prompt-search": 1.0}
    assert candidate(found, "template").cost.price is None, "no price was given"


def test_predict_evaluate_and_try(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, home, vendor = done.run, done.home, done.vendor
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    adapter = found.adapter_folder("template")
    name = f"openai:big@{vendor.url}"
    tries = vendor.tries
    for verb in ("predict", "evaluate"):
        told = call(verb, adapter, home / "topics.csv")
        assert (told.code, told.err.count("\n"), vendor.tries) == (2, 1, tries), (
            "a folder does not say who gets the key"
        )
        assert f"to which your OPENAI_API_KEY would be sent: {vendor.url}. If you know it, repeat it" in told.err
        assert f"with --model {name}" in told.err
    told = call("predict", adapter, home / "topics.csv", "--model", name)
    assert told.code == 0
    assert len(told.out.splitlines()) == 37
    monkeypatch.setenv("OPENAI_BASE_URL", vendor.url)
    told = call("evaluate", adapter, home / "topics.csv")
    assert "accuracy 0." in told.out
    told = call("try", home / "prompt.txt", home / "topics.csv", "--rows", "1", "--model", f"openai:big@{vendor.url}")
    assert (told.code, "tokens, billed with the fixed part" in told.out) == (0, True)


def test_our_own_server_is_such_an_endpoint(home: Path, tiny_folder: Callable[[str], Path]) -> None:
    """What a served task answers is what the run says that the remote model answers."""
    base = tiny.encoder(tiny_folder("bert"))
    adapter = tiny.adapter(base).with_about(ABOUT)
    folder.save(adapter, home / "topics")
    (home / "prompt.txt").write_text("{text}", encoding="utf-8")
    with serving([str(home / "topics")]) as live:
        found = compare(
            str(home / "topics.csv"), model=[f"openai:topics@{live.url}/v1"], template=str(home / "prompt.txt"),
            methods=["majority", "template"], trials=1, seeds=1, folds=1, out=str(home / "run"), listener=Silent(),
        )  # fmt: skip
    rows = read_lines(found.folder / "test.jsonl")
    expected = Predictor.load(home / "topics").predict([Example(id=row["id"], text=row["text"]) for row in rows])
    answers = read_lines(found.folder / "predictions" / "template" / "seed-0.jsonl")
    assert [answer["label"] for answer in answers] == [each.label for each in expected]


def test_after_an_outage_the_search_goes_on(home: Path, vendor: Vendor) -> None:
    """As if there had been none: no trial is lost, though the floor was refitted meanwhile."""
    asked = {"methods": ["majority", "few-shot"], "trials": 3}

    def table(prompt: str) -> dict[str, float]:
        if len(vendor.asked) > 20:
            vendor.faults.extend([refusal(402, "Insufficient balance")] * 99)
        return by_topic(prompt)

    vendor.table = table
    cut = run(home, vendor, **asked)
    assert candidate(cut, "few-shot").status == "failed"
    log = (cut.folder / "log.txt").read_text(encoding="utf-8")
    assert "which does not answer: --resume goes on with it" in log
    assert "the rest of the budget" not in log
    vendor.table = by_topic
    vendor.faults.clear()
    resumed, whole = run(home, vendor, resume=True, **asked), run(home, vendor, out=str(home / "whole"), **asked)
    done = [line for line in read_lines(resumed.folder / "trials.jsonl") if line["status"] != "unanswered"]
    expected = read_lines(whole.folder / "trials.jsonl")
    keys = ("candidate", "trial", "params", "status", "value")
    assert [[line[key] for key in keys] for line in done] == [[line[key] for key in keys] for line in expected]
    mine, other = candidate(resumed, "few-shot"), candidate(whole, "few-shot")
    assert (mine.test, mine.trials, mine.seeds) == (other.test, other.trials, other.seeds)


def test_folds_share_the_money_and_the_first_is_priced_by_its_own_rows(home: Path, vendor: Vendor) -> None:
    """The first may spend its part; its model is priced by its own rows, which it has answered already."""
    write_topics(home / "topics.csv", 30)
    paid_usd: list[float] = []

    class Hearing(Silent):
        def note(self, message: str) -> None:
            if message.startswith("Fold"):
                paid_usd.append((2 * vendor.input_tokens + 8 * vendor.output_tokens) / 1e6)

    asked = {"folds": 2, "methods": ["majority", "few-shot"], "listener": Hearing()}
    run(home, vendor, max_cost=0.01, out=str(home / "short"), **asked)
    assert 0.001 < paid_usd[1] <= 0.01 / 3
    found = run(home, vendor, **asked)
    fold = found.folder / "folds" / "r0-f0"
    own = folder.load(fold / "adapters" / "few-shot" / "seed-0")
    assert own.template is not None
    texts = {row["id"]: row["text"] for row in read_lines(found.folder / "test.jsonl")}
    ids = [line["id"] for line in read_lines(fold / "predictions" / "few-shot" / "seed-0.jsonl")]
    sizes = [len((own.template.fixed + own.template.fill({"text": texts[k]})).split()) for k in ids]
    assert candidate(found, "few-shot").cost.price == pytest.approx(1000 * (2 * np.mean(sizes) + 8) / 1e6, rel=1e-4)


def test_what_a_request_costs_is_unknown_where_it_cannot_be_asked_again(home: Path, vendor: Vendor) -> None:
    """As after the cache is lost: no money is left, or the endpoint answers no more."""
    base = Remote(Endpoint(f"openai:big@{vendor.url}").connect())
    template, words = Template(fixed="", row="{text}"), Verbalizer(phrases=(("food",), ("music",)), scale=1.0)
    adapter = Adapter(base=base.identity, labels=("food", "music"), max_tokens=99, template=template)
    adapter = replace(adapter, verbalizer=words)
    price = TokenPrices(input=2.0, output=8.0)
    clock = Clock(home / "elapsed.json", None, Start.now())
    clock.purse = Purse(max_usd=1e-5, usd_per_s=1e-9, paid_usd=lambda: 0.0)
    base.endpoint.charge(Spending(home / "requests.jsonl", {"big": price}, clock))
    found = bought(adapter, tiny.examples(3), FeatureStore(base), price)
    assert found is not None
    assert (found.usd, found.extra_tokens, found.latency, len(vendor.asked)) == (None, None, (), 1)
    assert "nothing is left to ask again" in found.remarks[0]
    clock.purse = None
    vendor.faults.append(refusal(402, "Insufficient balance"))
    gone = bought(adapter, tiny.examples(3), FeatureStore(base), price)
    assert gone is not None
    assert "out of credit" in gone.remarks[0]


def test_what_may_be_billed_counts_as_the_most_it_may_cost(home: Path, vendor: Vendor) -> None:
    """A try without an answer in time, one that cannot be read, one that tells its usage though it cannot."""
    endpoint = Endpoint(f"openai:big@{vendor.url}", patience=Patience(timeout_s=0.5, retries=1)).connect()
    price = TokenPrices(input=2.0, output=8.0)
    spending = Spending(home / "requests.jsonl", {"big": price}, Clock(home / "elapsed.json", None, Start.now()))
    endpoint.charge(spending)
    before = spending.usd
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    vendor.faults.append(Fault(stall_s=20))
    vendor.faults.append(Fault(body=json.dumps({"choices": [], "usage": usage})))
    body = endpoint.writing.body("big", Ask(prompt="Text 1", max_tokens=50))
    endpoint.ask([body])
    most = price.usd(input_tokens=len(json.dumps(body)), output_tokens=50)
    answered = price.usd(input_tokens=2, output_tokens=1) + price.usd(input_tokens=100, output_tokens=10)
    assert spending.usd - before == pytest.approx(most + answered)
    vendor.faults.append(Fault(body="{not json"))
    endpoint.ask([{**body, "max_tokens": 51}])
    more = price.usd(input_tokens=len(json.dumps(body)), output_tokens=51) + price.usd(input_tokens=2, output_tokens=1)
    assert spending.usd - before == pytest.approx(most + answered + more)
    taken = spending.taken()
    assert taken is not None
    assert (taken.sent, taken.retried) == (4, 3)
    assert taken.price == pytest.approx(spending.usd)
