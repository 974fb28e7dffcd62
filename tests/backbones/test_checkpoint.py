"""Finding, checking and naming a base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.errors import ModelError

GetFolder = Callable[[str], Path]


@pytest.fixture
def copied(tiny_folder: GetFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder("bert"), tmp_path / "model"))


def test_identity_follows_values_and_tokenizer(tiny_folder: GetFolder, copied: Path) -> None:
    start = load_checkpoint(str(tiny_folder("bert"))).identity
    moved = load_checkpoint(str(copied)).identity
    assert (moved.sha256, moved.tokenizer_sha256) == (start.sha256, start.tokenizer_sha256)
    assert (moved.name, moved.kind) == (str(copied), "encoder")
    tensors = load_file(copied / "model.safetensors")
    name = next(n for n in tensors if n.endswith("query.bias"))
    tensors[name][0] += 1e-6
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    changed = load_checkpoint(str(copied)).identity
    assert changed.sha256 != start.sha256
    assert changed.tokenizer_sha256 == start.tokenizer_sha256
    text = (copied / "tokenizer.json").read_text(encoding="utf-8")
    (copied / "tokenizer.json").write_text(text.replace('"soup"', '"soap"'), encoding="utf-8")
    assert load_checkpoint(str(copied)).identity.tokenizer_sha256 != start.tokenizer_sha256


def test_identity_does_not_depend_on_use(tiny_folder: GetFolder) -> None:
    """A tokenizer keeps the truncation of its last call; the hash does not."""
    checkpoint = load_checkpoint(str(tiny_folder("bert")))
    checkpoint.tokenizer("soup " * 100, truncation=True, max_length=9, padding="max_length")
    assert checkpoint.identity == load_checkpoint(str(tiny_folder("bert"))).identity


def test_a_missing_pooler_does_not_count(copied: Path) -> None:
    start = load_checkpoint(str(copied)).identity.sha256
    tensors = {n: t for n, t in load_file(copied / "model.safetensors").items() if not n.startswith("pooler")}
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_checkpoint(str(copied)).identity.sha256 == start


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "cls"), ("mean", "mean"), (None, "mean")])
def test_pooling(mode: str | None, pooling: str, copied: Path) -> None:
    if mode is not None:
        tiny.set_pooling(copied, mode)
    assert load_checkpoint(str(copied)).pooling == pooling


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_wrong_kind(copied: Path) -> None:
    change_config(copied, model_type="gpt2")
    with pytest.raises(ModelError, match=r"type gpt2\. Allowed: bert, .*Choose an encoder"):
        load_checkpoint(str(copied))


def test_decoder_of_a_known_kind(copied: Path) -> None:
    change_config(copied, is_decoder=True)
    with pytest.raises(ModelError, match="Choose an encoder"):
        load_checkpoint(str(copied))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_broken_files(file: str, copied: Path) -> None:
    (copied / file).write_bytes(b"\x00 not this")
    with pytest.raises(ModelError) as error:
        load_checkpoint(str(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files(file: str, copied: Path) -> None:
    (copied / file).unlink()
    if file == "tokenizer.json":
        (copied / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError) as error:
        load_checkpoint(str(copied))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_no_folder(name: str) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        load_checkpoint(name)


def test_unknown_name_without_network() -> None:
    with pytest.raises(ModelError, match=r"cannot load model 'no-such/model'.*Allowed"):
        load_checkpoint("no-such/model")


@pytest.mark.slow
def test_embedded() -> None:
    checkpoint = load_checkpoint("embedded")
    assert checkpoint.config.hidden_size == 384
    assert checkpoint.pooling == "mean"
    assert checkpoint.identity.name == "embedded"
