"""An adapter folder: what goes in comes out, bit by bit, or there is an error."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.adapters import folder, peft_format
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, Part
from tunewright.backbones.decoder import Decoder
from tunewright.errors import AdapterError


@pytest.fixture
def whole(tiny_decoder: Callable[[str], Decoder]) -> Adapter:
    made = tiny.every_part(tiny_decoder("gpt2"))
    return replace(made, about={"method": "all", "dev": 0.875, "seed": 0})


@pytest.fixture
def saved(whole: Adapter, tmp_path: Path) -> Path:
    folder.save(whole, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_round_trip(whole: Adapter, saved: Path) -> None:
    loaded = folder.load(saved)
    assert loaded.sha256() == whole.sha256()
    assert loaded.tensors().keys() == whole.tensors().keys()
    for name, tensor in loaded.tensors().items():
        assert tensor.dtype == whole.tensors()[name].dtype, name
        assert torch.equal(tensor, whole.tensors()[name]), name
    assert {n: p.settings() for n, p in loaded.parts().items()} == {n: p.settings() for n, p in whole.parts().items()}
    for field in ("base", "labels", "max_tokens", "about"):
        assert getattr(loaded, field) == getattr(whole, field)


def test_same_answers(whole: Adapter, saved: Path, tiny_decoder: Callable[[str], Decoder]) -> None:
    base = tiny_decoder("gpt2")
    found = tiny.encodings(base, ["soup", "a train to the choir"])
    before, after = (torch.stack(base.logits(tiny.rows(a, found))) for a in (whole, folder.load(saved)))
    assert torch.equal(before, after)


@pytest.mark.parametrize("part", ["soft_prompt", "prefix", "lora", "weights", "head", "calibration", "demonstrations"])
def test_single_parts(part: str, whole: Adapter, tmp_path: Path) -> None:
    alone = Adapter(base=whole.base, labels=whole.labels, max_tokens=64, **{part: getattr(whole, part)})
    folder.save(alone, tmp_path / "one")
    assert folder.load(tmp_path / "one").sha256() == alone.sha256()


def test_files(saved: Path) -> None:
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    peft_files = {
        f"peft/{p}/{f}"
        for p in set(peft_format.PEFT_PARTS) - {"tuner"}  # which stands in place of a LoRA
        for f in ("adapter_config.json", "adapter_model.safetensors")
    }
    assert files == {"adapter.json", "adapter.safetensors"} | peft_files
    own = load_file(saved / "adapter.safetensors")
    assert not [name for name in own if name.startswith(tuple(peft_format.PEFT_PARTS))]


def test_saving_replaces(whole: Adapter, saved: Path) -> None:
    floor = Adapter(base=whole.base, labels=whole.labels, max_tokens=64, calibration=whole.calibration)
    folder.save(floor, saved)
    assert list(folder.load(saved).parts()) == ["calibration"]
    assert not (saved / "peft").exists()


@pytest.mark.parametrize("file", ["adapter.safetensors", "peft/lora/adapter_model.safetensors"])
def test_one_changed_byte_of_tensors(file: str, saved: Path) -> None:
    """In the values: always seen. In the header: an error, or the very same adapter."""
    path = saved / file
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for place in (0, 9, start // 2, start, (start + len(content)) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(AdapterError):
            folder.load(saved)
    path.write_bytes(content[:-1])
    with pytest.raises(AdapterError):
        folder.load(saved)
    path.write_bytes(content)
    folder.load(saved)


@pytest.mark.parametrize("file", ["adapter.json", "peft/lora/adapter_config.json", "peft/prefix/adapter_config.json"])
def test_one_changed_byte_of_settings(file: str, whole: Adapter, saved: Path) -> None:
    """Every third byte in turn: an `AdapterError` or the same parts; never another exception, never another adapter."""
    path = saved / file
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            loaded = folder.load(saved)
        except AdapterError:
            continue
        # Provenance and the base's name may change: they say nothing about what is computed.
        assert loaded.sha256() == whole.sha256(), content[place - 20 : place + 20]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["head.bias", "lora.h.0.attn.c_attn.up", "soft_prompt.vectors"])
def test_values_that_are_not_finite(part: str, value: float, whole: Adapter, tmp_path: Path) -> None:
    tensor = whole.tensors()[part].clone()
    tensor.view(-1)[1] = value
    folder.save(whole.with_tensors({part: tensor}), tmp_path / "broken")
    with pytest.raises(AdapterError, match="not finite"):
        folder.load(tmp_path / "broken")


def edit(saved: Path, **changes: object) -> None:
    path = saved / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("about", [5, "text", ["dtype"], None])
def test_provenance_that_is_none(about: object, saved: Path) -> None:
    edit(saved, about=about)
    with pytest.raises(AdapterError, match="Restore the folder"):
        folder.load(saved)


def test_newer_schema(saved: Path) -> None:
    edit(saved, schema_version=2)
    with pytest.raises(AdapterError, match=r"newer version.*Update"):
        folder.load(saved)


def test_unknown_part(saved: Path) -> None:
    parts = json.loads((saved / "adapter.json").read_text(encoding="utf-8"))["parts"]
    edit(saved, parts=parts | {"telepathy": {}})
    with pytest.raises(AdapterError, match="telepathy"):
        folder.load(saved)


def test_part_without_its_tensors(saved: Path) -> None:
    stored = load_file(saved / "adapter.safetensors")
    save_file({k: t for k, t in stored.items() if k != "head.bias"}, saved / "adapter.safetensors")
    with pytest.raises(AdapterError):
        folder.load(saved)


def test_folders_from_before_there_was_a_temperature(whole: Adapter, tmp_path: Path) -> None:
    """Nothing is written at 1, so the hash of older folders is still theirs."""
    older = replace(whole, calibration=None, weights=None).with_temperature(1.0)
    older = replace(older, calibration=Calibration(bias_C=torch.tensor([0.25, 0.0, -1.0])))
    folder.save(older, tmp_path / "older")
    assert json.loads((tmp_path / "older" / "adapter.json").read_text("utf-8"))["parts"]["calibration"] == {}
    assert folder.load(tmp_path / "older").temperature == 1.0
    head = Adapter(base=whole.base, labels=whole.labels, max_tokens=64, head=whole.head)
    folder.save(head.with_temperature(2.5), tmp_path / "head")
    loaded = folder.load(tmp_path / "head")
    assert (loaded.temperature, loaded.calibration) == (2.5, Calibration(temperature=2.5))


@pytest.mark.parametrize("temperature", [0, -1.0, "nan", "hot", None])
def test_temperature_that_is_none(temperature: object, saved: Path) -> None:
    parts = json.loads((saved / "adapter.json").read_text(encoding="utf-8"))["parts"]
    edit(saved, parts=parts | {"calibration": {"temperature": temperature}})
    with pytest.raises(AdapterError, match="does not fit its tensors"):
        folder.load(saved)


@pytest.mark.parametrize("content", ["", "[]", "{}", '"text"', "\udcff"])
def test_record_that_is_none(content: str, saved: Path) -> None:
    (saved / "adapter.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(AdapterError, match=r"adapter\.json"):
        folder.load(saved)


def test_no_adapter_there(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter folder"):
        folder.load(tmp_path / "nowhere")
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter\.safetensors"):
        folder.load(saved)


@pytest.mark.parametrize("before", [False, True])
def test_half_written_folders_do_not_exist(
    *, before: bool, whole: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that breaks off leaves what was there, or nothing."""
    target = tmp_path / "adapter"
    older = replace(whole, max_tokens=32)
    if before:
        folder.save(older, target)
    write = peft_format.write

    def breaks(part: Part, path: Path, **how: str) -> None:
        if path.name == "lora":
            raise KeyboardInterrupt
        write(part, path, **how)

    monkeypatch.setattr(peft_format, "write", breaks)
    with pytest.raises(KeyboardInterrupt):
        folder.save(whole, target)
    assert [path.name for path in tmp_path.iterdir()] == (["adapter"] if before else [])
    if before:
        assert folder.load(target).sha256() == older.sha256()
