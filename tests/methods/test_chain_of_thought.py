"""Reasoning before the answer: what is written and read, how the answer is cut out, and how several vote."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tunewright as tw
from tests import tiny
from tests.commands import write_table
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Reasoning, voted
from tunewright.backbones.base import Encoding, Row, row_generator
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, answer, predict
from tunewright.cli.rows import read_examples
from tunewright.config import load_config
from tunewright.data.load import read_rows
from tunewright.errors import AdapterError, DataError
from tunewright.evaluation.metrics import METRICS
from tunewright.methods import chain_of_thought
from tunewright.methods.base import Material
from tunewright.prompts.template import Prompt
from tunewright.runs.folder import adapter_folder
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.tuning.progress import Silent
from tunewright.tuning.stage import needs
from tunewright.types import Example, Params, Task

GetDecoder = Callable[[str], Decoder]
WRITE = Task(name="count", labels=(), descriptions={}, metric="exact-match", kind="generate")
CUE = "very"
"""Few tokens to the tiny models, whose context is short."""

PARAMS: Params = {"template": "yours", "lead": "none", "shots": 2, "samples": 1}


@pytest.fixture(autouse=True)
def short_cue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_of_thought, "CUE", CUE)


def material(base: Decoder, task: Task, *, known: bool = True) -> Material:
    rows = tiny.examples(8)
    why = [word if known else None for word in tiny.FILLERS]
    rows = [replace(e, text=tiny.WORDS[k], reasoning=why[k]) for k, e in enumerate(rows)]
    if not task.labels:
        rows = [replace(e, label=None, target=str(k)) for k, e in enumerate(rows)]
    prompt = Prompt(fixed="", row="{text} was")
    return prepare(task, base, rows, rows[:3], METRICS[task.metric], base.max_tokens, prompt=prompt).material


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 and 3 make 5. The answer is 5.", "5"),
        ("The answer is 4. No. The answer is  5 ", "5"),
        ("so The answer is\n5\nand more", "5"),
        ("The answer is a b", "a b"),
        ("5", ""),
        ("The answer is", ""),
        ("the answer is 5", ""),
    ],
)
def test_the_answer_is_what_follows_the_last_cue(text: str, found: str) -> None:
    assert Reasoning(cue="The answer is").answer(text) == found


def test_a_full_stop_may_be_part_of_the_answer() -> None:
    assert Reasoning(cue="so", full_stop=True).answer("so it was.") == "it was."
    assert Reasoning(cue="so").answer("so 3.5.") == "3.5"


def test_most_samples_win() -> None:
    assert voted(["a", "b", " b", "c"]) == "b"
    assert voted(["b", "a"]) == "b"
    assert voted(["", "", "a"]) == "a"
    assert voted(["", ""]) == ""


def test_what_is_shown(tiny_decoder: GetDecoder) -> None:
    """Demonstrations with reasoning, cue and answer; a lead after the row; stops where a demonstration ends."""
    made = material(tiny_decoder("llama"), tiny.task())
    adapter = chain_of_thought.place(made, PARAMS, generator("x"))
    assert adapter.template is not None
    blocks = adapter.template.fixed.split("\n\n")[:-1]
    expected = {f"{e.text} was {e.reasoning} {CUE} {e.label}." for e in made.examples}
    assert len(blocks) >= 1
    assert set(blocks) <= expected
    assert adapter.decoding is not None
    assert adapter.decoding.stop == ("\n\n",)
    bare = material(tiny_decoder("llama"), tiny.task(), known=False)
    led = chain_of_thought.place(bare, {**PARAMS, "lead": "steps", "samples": 5}, generator("x"))
    assert led.template is not None
    assert (led.template.fixed, led.template.row) == ("", "{text} was Let's think step by step.")
    assert led.decoding is not None
    assert (led.decoding.stop, led.decoding.samples, led.decoding.temperature) == ((), 5, 0.7)
    assert "shots" not in chain_of_thought.space(bare)


def placed(made: Material, samples: int) -> Adapter:
    adapter = chain_of_thought.place(made, {**PARAMS, "shots": 1, "samples": samples}, generator("x"))
    assert adapter.decoding is not None
    return replace(adapter, decoding=replace(adapter.decoding, max_new_tokens=6))


@pytest.mark.parametrize("samples", [1, 3])
def test_labels_by_hand(samples: int, tiny_decoder: GetDecoder) -> None:
    """Write, put the cue behind, score each label's words; probabilities of the samples averaged."""
    base = tiny_decoder("llama")
    adapter = placed(material(base, tiny.task()), samples)
    assert adapter.template is not None
    examples = tiny.examples(4, seed=2)
    found = predict(adapter, base.encode_for(examples, adapter), FeatureStore(base)).softmax(-1)
    plain = replace(adapter, reasoning=None, decoding=None)
    for encoding, shares_C in zip(base.encode_for(examples, adapter), found, strict=True):
        row = Row(encoding=encoding, adapter=replace(plain, decoding=adapter.decoding))
        means = []
        for s in range(samples):
            (written,) = base.generate([row], [row_generator(encoding, s)])
            thought = base.encode_answer(written.text.strip(), after="was")[:6]
            ids = (*encoding.ids, *thought, *base.encode_answer(CUE))
            candidates = [base.encode_answer(label) for label in adapter.labels]
            behind = Row(encoding=Encoding(ids=ids, type_ids=(0,) * len(ids)), adapter=plain)
            means.append(base.scores([behind], candidates)[0].softmax(-1))
        torch.testing.assert_close(shares_C, torch.stack(means).mean(0), atol=1e-5, rtol=0)


def test_samples_differ_and_the_disk_keeps_them(tiny_decoder: GetDecoder, tmp_path: Path) -> None:
    base, examples = tiny_decoder("gpt2"), tiny.examples(6, seed=2)
    one, several = (placed(material(base, tiny.task()), samples) for samples in (1, 3))
    folder.save(several, tmp_path / "a")
    store, loaded = FeatureStore(base), folder.load(tmp_path / "a")
    assert loaded.sha256() == several.sha256() != one.sha256()
    found = [predict(a, base.encode_for(examples, a), store) for a in (one, several, loaded)]
    assert torch.equal(found[1], found[2])
    assert (found[0].softmax(-1) - found[1].softmax(-1)).abs().max() > 1e-4


def test_texts_vote(tiny_decoder: GetDecoder) -> None:
    """The answers cut out of single draws of the same seeds, counted; an answer without the cue is illegal: empty."""
    base = tiny_decoder("llama")
    made = material(base, WRITE)
    decoding = Decoding(max_new_tokens=10, temperature=1.5, samples=4)
    asked, cue = tiny.examples(5, seed=2), Reasoning(cue="t")
    adapter = made.adapter(template=placed(made, 1).template, decoding=decoding, reasoning=cue)
    found = [each.text for each in answer(adapter, asked, made.store)]
    single = replace(adapter, decoding=replace(decoding, samples=1), reasoning=None)
    for k, encoding in enumerate(base.encode_for(asked, adapter)):
        row = Row(encoding=encoding, adapter=single)
        texts = [base.generate([row], [row_generator(encoding, s)])[0].text for s in range(4)]
        legal = [" ".join(cue.answer(text).split()) for text in texts if cue.answer(text)]
        most = Counter(legal).most_common(1)
        assert " ".join(str(found[k]).split()) == (most[0][0] if most else "")
    assert any(found)
    never = replace(adapter, reasoning=Reasoning(cue="no such words"))
    assert [each.text for each in answer(never, asked, made.store)] == [""] * 5


def test_who_cannot_reason_is_refused(tiny_decoder: GetDecoder, tiny_backbone: Callable[[str], object]) -> None:
    encoder = tiny_backbone("bert")
    assert "writes no reasoning" in str(chain_of_thought.METHOD.refuses(encoder))  # type: ignore[arg-type]
    adapter = replace(tiny.adapter(encoder), reasoning=Reasoning(cue="so"))  # type: ignore[arg-type]
    with pytest.raises(AdapterError, match="cannot reason"):
        encoder.check(adapter)  # type: ignore[attr-defined]
    assert math.isfinite(tiny_decoder("llama").answer_tokens(tiny.every_part(tiny_decoder("llama"))))


def sums(path: Path, last: str = "5 #### 6") -> str:
    rows = [("1 and 1", "One more. #### 2"), ("2 and 2", "Twice two.\n#### 4"), ("3 and 3", "x #### y #### 6")]
    rows = [(f"{k} {q}", a) for k in range(10) for q, a in rows]
    return str(write_table(path, ("question", "answer"), [*rows, ("last", last)]))


def test_reasoning_and_target_in_one_column(tmp_path: Path) -> None:
    settings = {"data": sums(tmp_path / "a.csv"), "task": "generate", "reasoning": "answer"}
    rows = read_rows(load_config(None, settings)).rows["train"]
    assert [(e.reasoning, e.target, e.references) for e in rows[:3]] == [
        ("One more.", "2", ("2",)), ("Twice two.", "4", ("4",)), ("x #### y", "6", ("6",)),
    ]  # fmt: skip


def test_new_rows_are_parted_as_in_training(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """By the adapter's own record; a file of plain answers is taken as it is, and one of both is refused."""
    run = tw.compare(
        sums(tmp_path / "a.csv"), model=str(tiny_folder("llama")), task="generate", target="answer", reasoning="answer",
        methods="copy-input,chain-of-thought", trials=1, seeds=1, max_tokens=32, out=str(tmp_path / "run"),
        listener=Silent(),
    )  # fmt: skip
    about = json.loads((adapter_folder(run.folder, "copy-input", 0) / "adapter.json").read_text())["about"]

    def references(rows: list[tuple[str, str]]) -> list[tuple[str, ...]]:
        path = str(write_table(tmp_path / "new.csv", ("question", "answer"), rows))
        return [e.references for e in read_examples(path, about, {"text": None, "target": None})[1]]

    assert references([("4 and 4", "Add. #### 8"), ("5 and 5", "a #### b\n#### 10")]) == [("8",), ("10",)]
    assert references([("4 and 4", "8")]) == [("8",)]
    with pytest.raises(DataError, match="1 of 2 rows without it"):
        references([("4 and 4", "Add. #### 8"), ("5 and 5", "10")])


def test_reasoning_in_a_column_of_its_own(tmp_path: Path) -> None:
    rows = [(f"q {k}", f"a {k}", "" if k == 1 else f"why {k}") for k in range(5)]
    path = str(write_table(tmp_path / "a.csv", ("question", "answer", "why"), rows))
    found = read_rows(load_config(None, {"data": path, "task": "generate", "reasoning": "why"})).rows["train"]
    assert [e.reasoning for e in found] == ["why 0", None, "why 2", "why 3", "why 4"]
    assert [e.target for e in found] == [f"a {k}" for k in range(5)]


@pytest.mark.parametrize(
    ("settings", "last", "words"),
    [
        ({"reasoning": "answers"}, "5 #### 6", "unknown column 'answers'"),
        ({"reasoning": "question"}, "5 #### 6", "unknown column 'question'"),
        ({"reasoning": "answer"}, "no mark", "1 of 31 rows without it"),
        ({"reasoning": "answer"}, "nothing behind ####", "1 of 31 rows without it"),
    ],
)
def test_bad_columns(settings: dict[str, str], last: str, words: str, tmp_path: Path) -> None:
    path = sums(tmp_path / "a.csv", last)
    with pytest.raises(DataError, match=words):
        read_rows(load_config(None, {"data": path, "task": "generate", **settings}))


def test_a_column_that_nobody_reads_is_refused() -> None:
    (fault,) = needs(load_config(None, {"data": "a.csv", "methods": "zero-shot", "reasoning": "why"}))
    assert "`reasoning` is for method 'chain-of-thought'" in fault
    assert not needs(load_config(None, {"data": "a.csv", "methods": "chain-of-thought"}))


def test_demonstrations_are_of_training_rows_with_reasoning(tiny_decoder: GetDecoder) -> None:
    made = material(tiny_decoder("llama"), WRITE)
    some: list[Example] = [replace(e, reasoning=None) if k else e for k, e in enumerate(made.examples)]
    adapter = chain_of_thought.place(replace(made, examples=some), PARAMS, generator("x"))
    assert adapter.template is not None
    assert adapter.template.fixed == f"{some[0].text} was {some[0].reasoning} {CUE} {some[0].target}.\n\n"
