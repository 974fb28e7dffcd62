"""Answers judged in pairs, at the terminal and by a model: blind, stored one by one, gone on with, reported."""

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests import tiny
from tests.cli.test_bad_input import refused
from tests.commands import COMMAND, Call, environment
from tunewright.files import dump_lines, write_text
from tunewright.runs import record
from tunewright.runs.judgements import HUMAN, Judgement, judgements_file, read, read_all

PAIR = ("majority", "few-shot")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """Twelve short rows; the two differ on all but two of them."""
    path = shutil.copytree(finished_run, tmp_path / "run")
    ids = [f"topics:{k}" for k in range(12)]
    write_text(path / "test.jsonl", dump_lines({"id": i, "text": f"a song {i[-1]}", "label": "music"} for i in ids))
    for who, answer in zip(PAIR, ("food", "travel"), strict=True):
        lines = [{"id": i, "label": "music" if k < 2 else answer, "probabilities": []} for k, i in enumerate(ids)]
        for file in (path / "predictions" / who).glob("seed-?.jsonl"):
            write_text(file, dump_lines(lines))
    return path


def judged(run: Path) -> tuple[Judgement, ...]:
    return read(judgements_file(run, PAIR, HUMAN))


def typed(call: Call, keys: str, run: Path, *more: str) -> str:
    call.monkeypatch.setattr("sys.stdin", io.StringIO(keys))
    done = call("judge", run, "--candidates", ",".join(PAIR), *more)
    assert done.code == 0, done
    return done.out


def test_a_person_chooses_blind_and_goes_on_later(run: Path, call: Call) -> None:
    first = typed(call, "a\nx\nB\nq\n", run)
    assert [each.choice for each in judged(run)] == ["A", "B"]
    assert not any(name in first.split("Better:")[0] for name in PAIR)
    assert first.count("Keys: a, b, t") == 2  # once more after a key that is none
    second = typed(call, "t\n", run)  # the end of a pipe stops as q does
    found = judged(run)
    assert [each.choice for each in found] == ["A", "B", "tie"]
    assert len({each.row for each in found}) == 3
    assert "neither on 1 of 3" in second
    known = record.read(run)
    for each in found:
        assert set(each.shown) == set(PAIR)
        texts = [known.answers[who][each.row] for who in each.shown]
        assert texts[0] != texts[1]
        assert f"A: {texts[0]}\n\nB: {texts[1]}\n" in first + second
    assert "Judged in pairs" in (run / "report.html").read_text(encoding="utf-8")


def test_sides_are_mixed_and_pairs_are_an_end(run: Path, call: Call) -> None:
    out = typed(call, "a\n" * 99, run, "--pairs", "5")
    assert len(judged(run)) == 5
    assert out.count("Better:") == 5
    assert "always says A" in out
    typed(call, "a\n" * 99, run)
    sides = [each.shown[0] for each in judged(run)]
    assert {*sides} == set(PAIR)
    assert typed(call, "", run).count("Better:") == 0


def test_a_pipe_drives_it(run: Path) -> None:
    command = [*COMMAND, "judge", str(run), "--candidates", ",".join(PAIR)]
    done = subprocess.run(command, input="b\na\n", capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert [each.choice for each in judged(run)] == ["B", "A"]


def test_a_model_is_asked_in_both_orders(run: Path, call: Call, tmp_path: Path) -> None:
    """Each choice is the likelier next token, by transformers itself."""
    call.monkeypatch.setattr(tiny, "MAX_TOKENS", 512)
    model = tmp_path / "judge"
    tiny.build("gpt2", model)
    done = call("judge", run, "--candidates", ",".join(PAIR), "--judge", model, "--pairs", "4")
    assert done.code == 0, done.err
    out, found = done.out, read_all(run)
    assert "agrees with itself" in out
    assert len(found) == 8
    assert [each.shown for each in found[::2]] == [each.shown[::-1] for each in found[1::2]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reader = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    known = record.read(run)
    rows = {row.id: row.text for row in known.rows}
    for each in found:
        first, second = (known.answers[who][each.row] for who in each.shown)
        fixed = "Which of two answers to the input is better, A or B?\n\n"
        text = f"Input: {rows[each.row]}\n\nAnswer A: {first}\n\nAnswer B: {second}\n\nThe better answer is"
        ids = [i for part in (fixed, text) for i in tokenizer(part, add_special_tokens=False).input_ids]
        with torch.no_grad():
            scores = [likelihood(reader, ids, tokenizer(f" {c}", add_special_tokens=False).input_ids) for c in "AB"]
        assert each.choice == ("A" if scores[0] > scores[1] else "B"), (scores, json.dumps(text))
    assert call("judge", run, "--candidates", ",".join(PAIR), "--judge", model, "--pairs", "4").code == 0
    assert len(read_all(run)) == 8
    (file,) = (run / "judgements").iterdir()
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:-1]), encoding="utf-8")  # ended between the two orders of the last row
    assert call("judge", run, "--candidates", ",".join(PAIR), "--judge", model, "--pairs", "4").code == 0
    assert file.read_text(encoding="utf-8").splitlines(keepends=True) == lines


def likelihood(reader: transformers.PreTrainedModel, ids: list[int], answer: list[int]) -> float:
    """Mean log-probability of the answer's tokens."""
    logits = reader(torch.tensor([[*ids, *answer]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(ids) - 1 + k, token]) for k, token in enumerate(answer)) / len(answer)


def test_mistakes_are_one_line(run: Path, call: Call, tiny_folder: Callable[[str], Path]) -> None:
    assert "unknown candidate 'lore'" in refused(call, "judge", run, "--candidates", "lore,majority", where=run)
    assert "must name two" in refused(call, "judge", run, "--candidates", "majority", where=run)
    assert "`pairs` must be at least 1" in refused(call, "judge", run, "--pairs", "0", where=run)
    for model in (tiny_folder("masked-roberta"), tiny_folder("bert"), "openai:judge@http://localhost:1/v1"):
        done = call("judge", run, "--candidates", ",".join(PAIR), "--judge", model)
        assert done.code == 2
        assert "`judge` must be a model here that writes text" in done.err
    file = judgements_file(run, PAIR, HUMAN)
    file.parent.mkdir()
    file.write_text('{"row": "x", "judge": "j", "shown": ["a", "b"], "choice": "C"}\n')
    assert "no judgement" in refused(call, "judge", run, "--candidates", ",".join(PAIR), where=run)
