"""Rows with candidates of their own: from the file to the report, and what was saved answers as it did."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

import tunewright as tw
from tests import tiny
from tests.cli.test_bad_input import refused
from tests.commands import Call
from tunewright.adapters import folder
from tunewright.errors import DataError
from tunewright.serve.cache import Cache
from tunewright.serve.tasks import Served
from tunewright.training.objective import Rows
from tunewright.tuning.progress import Silent
from tunewright.types import Example

TRAINED = ("linear-probe", "lora")
FLAGS = ("--task", "choose", "--text", "premise", "--choices", "choice1,choice2")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said(rng: np.random.Generator, topic: str) -> str:
    return " ".join(rng.choice(tiny.GROUPS[topic], 6))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The right candidate is about food, whatever the premise."""
    rng, rows = np.random.default_rng(3), []
    for k in range(70):
        right = int(rng.integers(2))
        texts = [said(rng, "food"), said(rng, "music")]
        first, second = texts if right == 0 else reversed(texts)
        rows.append({"premise": f"{rng.choice(tiny.FILLERS)} {k}", "choice1": first, "choice2": second, "label": right})
    path = tmp_path_factory.mktemp("choose") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def compare(data: Path, model: Path, out: str, methods: str, **more: Any) -> tw.Run:
    return tw.compare(
        str(data), task="choose", text="premise", choices="choice1,choice2", model=str(model), trials=2, seeds=1,
        methods=methods, out=str(data.parent / out), listener=Silent(), **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data: Path, tiny_folder: Callable[[str], Path]) -> tw.Run:
    methods, today = f"majority,zero-shot,few-shot,nearest-target,{','.join(TRAINED)}", data.parent / "today.jsonl"
    chosen = [{"premise": row["premise"], "predicted": row[f"choice{1 + row['label']}"]} for row in lines(data)]
    today.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return compare(data, tiny_folder("bert"), "run", methods, rows=36, predictions={"today": str(today)})


def test_what_can_answers_and_what_cannot_says_why(run: tw.Run) -> None:
    by_id = {candidate.id: candidate for candidate in run.comparison.candidates}
    skipped = dict.fromkeys(("zero-shot", "few-shot", "nearest-target"), "skipped")
    assert {name: c.status for name, c in by_id.items()} == {
        "majority": "ok",
        **dict.fromkeys((*TRAINED, "today"), "ok"),
        **skipped,
    }
    assert by_id["nearest-target"].reason == "it does not choose among texts that each row brings"
    assert "answers to a prompt; give a decoder" in str(by_id["zero-shot"].reason)
    assert (run.comparison.task.kind, run.comparison.task.labels) == ("choose", ("1", "2"))
    assert by_id["majority"].is_floor


def test_accuracy_is_that_of_positions_and_is_learned(run: tw.Run) -> None:
    """A right candidate that shows itself by its words is found by a head on the pairs."""
    truth = [row["label"] for row in lines(run.folder / "test.jsonl")]
    assert max(c.test.value for c in run.comparison.candidates if c.test is not None) > 0.9
    for candidate in run.comparison.candidates:
        if candidate.test is None:
            continue
        given = [row["label"] for row in lines(run.folder / "predictions" / candidate.id / "seed-0.jsonl")]
        assert candidate.test.value == pytest.approx(np.mean([a == b for a, b in zip(truth, given, strict=True)]))
        if candidate.id == "majority":
            assert len(set(given)) == 1
        if candidate.id == "today":
            assert given == truth
        if candidate.id in TRAINED:
            assert candidate.test.value > 0.7


@pytest.mark.parametrize("name", ["majority", *TRAINED])
def test_what_was_saved_answers_alike(run: tw.Run, name: str) -> None:
    """In another order, alone, and with candidates in another order."""
    rows, given = lines(run.folder / "test.jsonl"), lines(run.folder / "predictions" / name / "seed-0.jsonl")
    examples = [Example(id=row["id"], text=row["text"], choices=tuple(row["choices"])) for row in rows]
    predictor = run[name]
    again = predictor.predict(examples[::-1])[::-1]
    assert [each.label for each in again] == [row["label"] for row in given]
    np.testing.assert_allclose([p.probabilities for p in again], [row["probabilities"] for row in given], atol=2e-5)
    assert predictor.predict(examples[:1])[0].label == given[0]["label"]
    if name != "majority":
        turned = predictor.predict([Example(id=e.id, text=e.text, choices=e.choices[::-1]) for e in examples])
        np.testing.assert_allclose([p.probabilities[::-1] for p in turned], [p.probabilities for p in again], atol=2e-5)


def test_rows_of_another_form_are_refused(run: tw.Run) -> None:
    with pytest.raises(DataError, match=r"row 1 does not fit .* 2 candidates a row"):
        run["linear-probe"].predict(["soup"])


def test_the_report_shows_what_was_chosen(run: tw.Run) -> None:
    page, rows = run.report.read_text(encoding="utf-8"), lines(run.folder / "test.jsonl")
    assert sum(f">{text}<" in page for row in rows for text in row["choices"]) >= 2


def test_the_command_line_reads_and_writes_candidates(
    run: tw.Run, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call, adapter = Call(monkeypatch=monkeypatch, capsys=capsys), run.adapter_folder("linear-probe")
    evaluated = call("evaluate", adapter, data)
    assert evaluated.out.startswith("accuracy ")
    assert "labels are read as positions from 0 to 1" in evaluated.err
    rows = [json.loads(line) for line in call("predict", adapter, data).out.splitlines()]
    assert set(rows[0]) == {"premise", "choice1", "choice2", "label", "predicted", "p_choice1", "p_choice2"}
    for row in rows:
        likelier = "choice1" if row["p_choice1"] > row["p_choice2"] else "choice2"
        assert row["predicted"] == row[likelier]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (FLAGS[:4], "`choices` must name 2 or more different columns"),
        ((*FLAGS[:5], "choice1,choice3"), "unknown column 'choice3'"),
        (FLAGS[2:], "`choices` has no use with --task classify"),
        ((*FLAGS, "--descriptions", "names.yaml"), "`descriptions` has no use with --task choose"),
        ((*FLAGS, "--metric", "macro-f1"), "unknown metric 'macro-f1'"),
    ],
)
def test_a_mistake_is_one_line(
    flags: tuple[str, ...],
    expected: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    assert expected in refused(call, "compare", data, *flags, where=data.parent)


def test_the_loss_is_that_of_a_choice() -> None:
    """Of two candidates that of a logistic regression on the difference of their scores, by scipy."""
    adapter_rows = Rows(encodings=[], labels_N=torch.tensor([0, 1, 1]))
    logits_NC = tiny.normal(7, 3, 2)
    found = adapter_rows.loss(logits_NC, range(3))
    margin_N = (logits_NC[:, 0] - logits_NC[:, 1]).numpy() * np.array([1, -1, -1])
    assert float(found.total) == pytest.approx(-np.log(expit(margin_N)).sum(), abs=1e-5)
    assert found.count == 3


def test_the_server_takes_it(run: tw.Run) -> None:
    """What it answers: `tests/serve/test_answers.py`."""
    cache = Cache(limit_bytes=1, max_bases=2, on_loaded=lambda: None)
    loaded = cache.load(Served(task="choose", version=1, folder=str(run.adapter_folder("linear-probe"))))
    assert loaded.adapter.sha256() == folder.load(run.adapter_folder("linear-probe")).sha256()


@pytest.mark.parametrize(
    ("kind", "prompt", "methods"),
    [
        ("llama", "{premise} so", ("linear-probe", "zero-shot", "few-shot")),
        ("masked-bert", "{premise} so [MASK]", ("template",)),
    ],
)
def test_prompts_are_answered_by_candidates(
    kind: str, prompt: str, methods: tuple[str, ...], data: Path, tiny_folder: Callable[[str], Path]
) -> None:
    """By bases that answer prompts; the user's own template is one."""
    more, model = {}, tiny_folder(kind)
    if "template" in methods:
        (data.parent / "prompt.txt").write_text(prompt, encoding="utf-8")
        more = {"template": str(data.parent / "prompt.txt")}
    found = compare(data, model, kind, ",".join(methods), **more)
    statuses = {candidate.id: (candidate.status, candidate.reason) for candidate in found.comparison.candidates}
    assert statuses == dict.fromkeys(methods, ("ok", None))
    rows = lines(found.folder / "test.jsonl")
    examples = [Example(id=row["id"], text=row["text"], choices=tuple(row["choices"])) for row in rows]
    for name in methods:
        given = lines(found.folder / "predictions" / name / "seed-0.jsonl")
        again = found[name].predict(examples[::-1])[::-1]
        np.testing.assert_allclose([p.probabilities for p in again], [row["probabilities"] for row in given], atol=2e-5)
        assert {row["label"] for row in given} == {"1", "2"}


@pytest.mark.parametrize(("kind", "prompt"), [("gpt2", "{premise} so"), ("masked-bert", "{premise} so [MASK]")])
def test_a_prompt_is_tried(
    kind: str,
    prompt: str,
    data: Path,
    tiny_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Shown are the candidates, the likelier first, and the right one."""
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    out = call("try", prompt, data, *FLAGS, "--model", tiny_folder(kind), "--rows", "2").out
    said = r"^answer  '(.*)', in the data '(.*)'\n +mean log-probability per token: (.*) (-[.\d]+), (.*) (-[.\d]+)$"
    answers = re.findall(said, out, re.MULTILINE)
    assert len(answers) == 2, out
    texts = {frozenset((row["choice1"], row["choice2"])): row[f"choice{row['label'] + 1}"] for row in lines(data)}
    for answer, wanted, first, high, second, low in answers:
        assert (answer, texts[frozenset((first, second))]) == (first, wanted)
        assert float(high) >= float(low)
