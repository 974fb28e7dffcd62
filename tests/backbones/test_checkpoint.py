"""Finding, checking and naming a base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.errors import AdapterError, ModelError

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


def write_pooling(folder: Path, content: str) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(content, encoding="utf-8")


OLD_FLAGS = dict.fromkeys(
    ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"), False
)
"""As sentence-transformers wrote them up to version 5.3."""


def old_pooling(*on: str) -> str:
    return json.dumps({f"pooling_mode_{name}": value for name, value in (OLD_FLAGS | dict.fromkeys(on, True)).items()})


@pytest.mark.parametrize(
    ("content", "pooling"),
    [
        (old_pooling("cls_token"), "cls"),
        (old_pooling("mean_tokens"), "mean"),
        ('{"pooling_mode": "cls", "include_prompt": true}', "cls"),
        ('{"pooling_mode": ["cls"]}', "cls"),
        ('{"pooling_mode": "mean"}', "mean"),
        ('{"word_embedding_dimension": 32}', "mean"),  # sentence-transformers' own default
        (None, "mean"),
    ],
)
def test_pooling(content: str | None, pooling: str, copied: Path) -> None:
    if content is not None:
        write_pooling(copied, content)
    assert load_checkpoint(str(copied)).pooling == pooling


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (old_pooling("max_tokens"), "max"),
        (old_pooling("lasttoken"), "lasttoken"),
        (old_pooling("mean_sqrt_len_tokens"), "mean_sqrt_len"),
        (old_pooling("cls_token", "mean_tokens"), "cls and mean"),
        (old_pooling(), "none"),
        ('{"pooling_mode": "lasttoken"}', "lasttoken"),
        ('{"pooling_mode": ["mean", "max"]}', "mean and max"),
    ],
)
def test_other_pooling_is_refused(content: str, got: str, copied: Path) -> None:
    write_pooling(copied, content)
    with pytest.raises(ModelError, match=rf"pools by {got}\. Allowed: mean, cls\. Choose"):
        load_checkpoint(str(copied))


@pytest.mark.parametrize("content", ["{", "[]", '{"pooling_mode": 5}'])
def test_broken_pooling(content: str, copied: Path) -> None:
    write_pooling(copied, content)
    with pytest.raises(ModelError, match=r"1_Pooling/config\.json of model .* is broken"):
        load_checkpoint(str(copied))


def test_pooling_belongs_to_the_identity(copied: Path) -> None:
    """The same weights, pooled otherwise, answer otherwise; the mean is what a model without the file has."""
    start = load_checkpoint(str(copied)).identity
    write_pooling(copied, old_pooling("mean_tokens"))
    assert load_checkpoint(str(copied)).identity == start
    trained = tiny.adapter(tiny.encoder(copied))
    write_pooling(copied, old_pooling("cls_token"))
    with pytest.raises(AdapterError, match="Give its own base"):
        tiny.encoder(copied).check(trained)


@pytest.mark.parametrize(("mode", "pooling"), [("cls", "cls"), (None, "mean")])
def test_pooling_of_a_name_on_the_hub(
    mode: str | None, pooling: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache, as a download leaves it."""
    if mode is not None:
        tiny.set_pooling(copied, mode)
    cache = tmp_path / "hub"
    repository, commit = cache / "models--some--model", "0" * 40
    shutil.copytree(copied, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="ascii")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert load_checkpoint("some/model").pooling == pooling


def asks(*_: object) -> str:
    raise AssertionError("asked on the terminal")


@pytest.mark.parametrize("model_type", ["bert", "made-up"])
def test_code_of_its_own_is_refused(model_type: str, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking, and without running it; also where the model type is a known one, which it may well not be."""
    monkeypatch.setattr("builtins.input", asks)
    (copied / "own.py").write_text("raise SystemExit('the code was run')", encoding="utf-8")
    code = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    change_config(copied, model_type=model_type, auto_map=code)
    with pytest.raises(ModelError) as error:
        load_checkpoint(str(copied))
    assert "code" in str(error.value)
    assert "\n" not in str(error.value)


def test_code_of_a_tokenizer_is_not_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", asks)
    (copied / "own.py").write_text("raise SystemExit('the code was run')", encoding="utf-8")
    path = copied / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    start = load_checkpoint(str(copied)).identity
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert load_checkpoint(str(copied)).identity == start  # tokenizer.json says it all


def test_missing_weights_are_refused(copied: Path) -> None:
    """transformers would fill in random numbers and say nothing."""
    tensors = load_file(copied / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if not n.startswith("encoder.layer.1.output")}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 4 tensors: encoder\.layer\.1\.output\.LayerNorm\.bias, .*Save"):
        load_checkpoint(str(copied))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_checkpoint_with_a_head_is_whole(kind: str, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """Its names begin with the base's own prefix, it has no pooler, and older ones hold buffers too."""
    shutil.copytree(tiny_folder(kind), tmp_path / "model")
    start = load_checkpoint(str(tiny_folder(kind)))
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "model")
    found = load_checkpoint(str(tmp_path / "model"))
    theirs = {name: tensor for name, tensor in start.model.state_dict().items() if not name.startswith("pooler.")}
    ours = {name: tensor for name, tensor in found.model.state_dict().items() if not name.startswith("pooler.")}
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (found.head is None) == (kind == "deberta-v2")


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_model_smaller_than_its_tokenizer(kind: str, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """Refused before a text has a word that it does not know; a larger one runs."""
    folder = Path(shutil.copytree(tiny_folder(kind), tmp_path / "model"))
    opens = transformers.AutoModel if kind == "bert" else transformers.AutoModelForCausalLM
    size = load_checkpoint(str(folder)).tokenizer.vocab_size
    for less, refused in ((-5, False), (5, True)):
        model = opens.from_pretrained(folder)
        model.resize_token_embeddings(size - less)
        model.save_pretrained(folder)
        if refused:
            with pytest.raises(ModelError, match=rf"has {size - less} word embeddings, its tokenizer has ids up to"):
                load_checkpoint(str(folder))
        else:
            assert load_checkpoint(str(folder)).model.get_input_embeddings().num_embeddings == size + 5  # type: ignore[operator]


def test_wrong_kind(copied: Path) -> None:
    change_config(copied, model_type="albert")
    with pytest.raises(ModelError, match=r"type albert\. Allowed: bert, .*Choose an encoder"):
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
