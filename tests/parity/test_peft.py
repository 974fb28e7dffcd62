"""The same numbers as PEFT's FEATURE_EXTRACTION on BERT shapes, with folders that go both ways."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tunewright.adapters import folder, peft_format
from tunewright.adapters.parts import Lora, Part, Prefix, SoftPrompt
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding
from tunewright.backbones.encoder import Encoder
from tunewright.errors import AdapterError
from tunewright.types import Example

TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!"]
LENGTH = 5
PARTS = ("soft_prompt", "prefix", "lora")
PEFT_CONFIGS: dict[str, peft.PeftConfig] = {
    "soft_prompt": peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH),
    "prefix": peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH),
    "lora": peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=3, lora_alpha=12, target_modules=["query", "value"]),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def part(name: str, base: Backbone) -> Part:
    if name == "soft_prompt":
        return tiny.soft_prompt(base, LENGTH, seed=1)
    if name == "prefix":
        return tiny.prefix(base, LENGTH, seed=2)
    return tiny.lora(base, 3, seed=300)


def plain_model(path: Path) -> Any:
    return transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval()


def run_peft(model: torch.nn.Module, found: list[Encoding]) -> list[Tensor]:
    """Last hidden state at the real positions of each row, from one padded batch."""
    width = max(len(e.ids) for e in found)
    ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in found])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in found])
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    extra = hidden.shape[1] - width
    return [row[: extra + len(e.ids)] for row, e in zip(hidden, found, strict=True)]


def run_ours(base: Encoder, name: str, part: Part, found: list[Encoding]) -> list[Tensor]:
    adapter = tiny.adapter(base, **{name: part})
    hidden, layout = base.hidden_states(tiny.rows(adapter, found))
    return [row[: int(mask.sum())] for row, mask in zip(hidden, layout.mask_BL, strict=True)]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bert", "electra"])
@pytest.mark.parametrize("name", PARTS)
def test_peft_reads_our_folder(
    name: str, kind: str, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    if (name, kind) == ("soft_prompt", "electra"):
        pytest.skip("peft takes the model's width for the embeddings'")
    base = tiny_encoder(kind)
    made = part(name, base)
    folder.save(tiny.adapter(base, **{name: made}), tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(plain_model(tiny_folder(kind)), tmp_path / "adapter" / "peft" / name).eval()
    found = tiny.encodings(base, TEXTS)
    with torch.no_grad():
        theirs = run_peft(model, found)
    bare = base.hidden_states(tiny.rows(tiny.adapter(base), found))[0]
    assert (theirs[0][-1] - bare[0, len(found[0].ids) - 1]).abs().max() > 1e-2, "peft ignored the adapter"
    assert_same(run_ours(base, name, made, found), theirs)


def saved_by_peft(name: str, path: Path, out: Path) -> torch.nn.Module:
    """A PEFT model with values far from its start, saved."""
    model = peft.get_peft_model(plain_model(path), PEFT_CONFIGS[name]).eval()
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.copy_(tiny.normal(k, *parameter.shape, scale=0.4))
    model.save_pretrained(str(out))
    return model


@pytest.mark.parametrize("name", PARTS)
def test_we_read_peft_folder(
    name: str, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_encoder("bert")
    model = saved_by_peft(name, tiny_folder("bert"), tmp_path)
    found = tiny.encodings(base, TEXTS)
    with torch.no_grad():
        theirs = run_peft(model, found)
    read = peft_format.read(tmp_path)
    assert isinstance(read, {"soft_prompt": SoftPrompt, "prefix": Prefix, "lora": Lora}[name])
    assert_same(run_ours(base, name, read, found), theirs)


@pytest.mark.parametrize("name", PARTS)
def test_writing_what_was_read_gives_peft_tensors(
    name: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    saved_by_peft(name, tiny_folder("bert"), tmp_path / "theirs")
    peft_format.write(peft_format.read(tmp_path / "theirs"), tmp_path / "ours", base_name="x")
    theirs, ours = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("theirs", "ours"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    config = json.loads((tmp_path / "theirs" / "adapter_config.json").read_text())
    mine = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    shared = set(mine) - {"base_model_name_or_path", "target_modules"}
    assert {k: mine[k] for k in shared & set(config)} == {k: config[k] for k in shared & set(config)}


@pytest.mark.parametrize("name", PARTS)
def test_gradients(
    name: str, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of a weighted sum of the real positions, with respect to what PEFT trains; within 1e-5 of the largest."""
    base = tiny_encoder("bert")
    model = saved_by_peft(name, tiny_folder("bert"), tmp_path / "theirs")
    read = peft_format.read(tmp_path / "theirs")
    live = type(read).build(read.settings(), {k: t.requires_grad_() for k, t in read.tensors().items()})
    found = tiny.encodings(base, TEXTS)

    def loss(hidden: list[Tensor]) -> Tensor:
        return torch.stack([(tiny.normal(k, *row.shape) * row).sum() for k, row in enumerate(hidden)]).sum()

    loss(run_peft(model, found)).backward()
    loss(run_ours(base, name, live, found)).backward()
    # Written as PEFT writes parameters, the gradients can be compared name by name.
    gradients = {k: t.grad for k, t in live.tensors().items() if t.grad is not None}
    assert gradients.keys() == live.tensors().keys()
    peft_format.write(type(read).build(read.settings(), gradients), tmp_path / "ours", base_name="x")
    ours = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    theirs = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    if name != "lora":
        theirs = {"prompt_embeddings": next(iter(theirs.values()))}
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)


@pytest.mark.parametrize("length", [5, 20])
def test_long_text_is_cut_to_what_is_left(
    length: int, tiny_encoder: Callable[[str], Encoder], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_encoder("bert")
    adapter = tiny.adapter(base, soft_prompt=tiny.soft_prompt(base, length, seed=4))
    text = " ".join(["bread and soup"] * 40)
    limit = base.max_tokens - adapter.prefix_tokens
    (found,) = base.encode([Example(id="1", text=text)], limit)
    assert len(found.ids) == limit == 64 - length
    assert found.num_cut == 40 * 3 + 2 - limit
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder("bert"))
    assert list(found.ids) == tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    folder.save(adapter, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(
        plain_model(tiny_folder("bert")), tmp_path / "adapter/peft/soft_prompt"
    ).eval()
    assert adapter.soft_prompt is not None
    with torch.no_grad():
        assert_same(run_ours(base, "soft_prompt", adapter.soft_prompt, [found]), run_peft(model, [found]))


def test_kinds_that_are_not_run(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    configs = {
        "use_rslora": peft.LoraConfig(target_modules=["query"], use_rslora=True),
        "bias": peft.LoraConfig(target_modules=["query"], bias="all"),
        "prefix_projection": peft.PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION", num_virtual_tokens=2, prefix_projection=True, encoder_hidden_size=8
        ),
    }
    for word, config in configs.items():
        peft.get_peft_model(plain_model(tiny_folder("bert")), config).save_pretrained(str(tmp_path / word))
        with pytest.raises(AdapterError, match=word):
            peft_format.read(tmp_path / word)
