"""The verb `inspect` on the adapters of a finished run."""

import json
import shutil
from pathlib import Path

import pytest

from tests.commands import Call
from tunewright.api import Run
from tunewright.releases.inspection import read_adapter


def shipped(finished_run: Path, candidate: str) -> Path:
    return Run(finished_run).adapter_folder(candidate)


@pytest.mark.parametrize("candidate", ["soft-prompt", "p-tuning", "prefix", "lora", "zero-shot", "majority"])
def test_page(candidate: str, call: Call, finished_run: Path) -> None:
    """Base, hashes, task, method and score are there; each vector of a prompt has a line of words."""
    path = shipped(finished_run, candidate)
    done, record = call("inspect", path), read_adapter(path)
    assert (done.code, done.err) == (0, "")
    assert record.base is not None
    for said in (record.base.sha256[:12], record.base.tokenizer_sha256[:12], record.sha256[:12], candidate, "topics"):
        assert said in done.out
    assert f"{record.about['dev']}" in done.out
    for part in record.parts:
        assert f"{part.name}: {part.bytes:,} bytes" in done.out
    rows = [line for line in done.out.splitlines() if " cosine " in line]
    assert len(rows) == (0 if record.soft_prompt is None else len(record.soft_prompt.vectors))
    assert bool(rows) == (candidate in ("soft-prompt", "p-tuning"))
    if record.soft_prompt is not None:
        for near in record.soft_prompt.vectors[0].by_cosine:
            assert f"{near.word!r} {near.similarity:.3g}" in rows[0]


def test_json(call: Call, finished_run: Path) -> None:
    path = shipped(finished_run, "soft-prompt")
    done = call("inspect", path, "--json", "--top", "2")
    found = json.loads(done.out)
    assert found["sha256"] == json.loads((path / "adapter.json").read_text(encoding="utf-8"))["sha256"]
    assert {len(vector["by_dot"]) for vector in found["soft_prompt"]["vectors"]} == {2}


def test_mistakes(call: Call, finished_run: Path, tiny_folder: object, tmp_path: Path) -> None:
    """One line and exit code 2: a run's folder, no folder, no words, another base, a changed value."""
    path = shipped(finished_run, "soft-prompt")
    assert callable(tiny_folder)
    changed = shutil.copytree(path, tmp_path / "changed")
    file = changed / "peft/soft_prompt/adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    for arguments, said in (
        ((finished_run,), "Give the recommended one"),
        ((tmp_path,), "no adapter folder"),
        ((path, "--top", "0"), "`top` must be at least 1. Got 0."),
        ((path, "--model", tiny_folder("gpt2")), "belongs to"),
        ((path, "--model", tmp_path), "config.json"),
        ((changed,), "is not what was saved"),
    ):
        done = call("inspect", *arguments)
        assert done.code == 2, arguments
        assert said in done.err, done.err
        assert len(done.err.splitlines()) == 1
