"""The same numbers as PEFT's on decoders, with folders that go both ways."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from tests.parity.test_peft import part, plain_model
from tunewright.adapters import folder, peft_format
from tunewright.adapters.parts import Part
from tunewright.backbones.base import Encoding
from tunewright.backbones.decoder import Decoder

TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!"]
LENGTH = 5
PARTS = ("soft_prompt", "prefix", "lora")
KINDS = ("gpt2", "llama", "qwen3", "gemma2", "opt", "bloom")
"""Transposed linear layers; rotary positions and grouped keys; wide heads; scaled embeddings; the rest."""

LINEARS = r".*\.\d+\..*(c_attn|c_proj|c_fc|q_proj|k_proj|o_proj|up_proj|fc1|fc2|query_key_value|dense|dense_h_to_4h)"

CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "soft_prompt": lambda: peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH),
    "lora": lambda: peft.LoraConfig(task_type="FEATURE_EXTRACTION", r=3, lora_alpha=12, target_modules=LINEARS),
}

each = [pytest.mark.parametrize("kind", KINDS), pytest.mark.parametrize("name", PARTS)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
    *each,
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _runs_in_peft(name: str, kind: str) -> None:
    if (name, kind) == ("soft_prompt", "opt"):
        pytest.skip("peft takes the model's width for the embeddings'")


def run_peft(model: torch.nn.Module, found: list[Encoding]) -> Tensor:
    """Last hidden state at the end of each row, from one batch padded on the right, next to the prompt."""
    width = max(len(e.ids) for e in found)
    ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in found])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in found])
    hidden = model(input_ids=ids, attention_mask=mask, use_cache=True).last_hidden_state
    extra = hidden.shape[1] - width
    return torch.stack([row[extra + len(e.ids) - 1] for row, e in zip(hidden, found, strict=True)])


def saved_by_peft(name: str, path: Path, out: Path) -> torch.nn.Module:
    """A PEFT model with values far from its start, saved."""
    model = peft.get_peft_model(plain_model(path), CONFIGS[name]()).eval()
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.copy_(tiny.normal(k, *parameter.shape, scale=0.1 if name == "lora" else 0.4))
    model.save_pretrained(str(out))
    return model


def run_ours(base: Decoder, name: str, made: Part, found: list[Encoding]) -> Tensor:
    return base.features(tiny.rows(tiny.adapter(base, **{name: made}), found))


def test_peft_reads_our_folder(
    name: str,
    kind: str,
    tiny_decoder: Callable[[str], Decoder],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    base = tiny_decoder(kind)
    made = part(name, base)
    folder.save(tiny.adapter(base, **{name: made}), tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(plain_model(tiny_folder(kind)), tmp_path / "adapter" / "peft" / name).eval()
    found = tiny.encodings(base, TEXTS)
    with torch.no_grad():
        theirs = run_peft(model, found)
    bare = base.features(tiny.rows(tiny.adapter(base), found))
    assert ((theirs - bare).abs().amax(-1) > 1e-2).all(), "peft ignored the adapter"
    torch.testing.assert_close(run_ours(base, name, made, found), theirs, atol=1e-5, rtol=1e-5)


def test_we_read_peft_folder_and_gradients(
    name: str,
    kind: str,
    tiny_decoder: Callable[[str], Decoder],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """Logits, and gradients of a weighted sum within 1e-5 of the largest; written again, the names are PEFT's."""
    base = tiny_decoder(kind)
    model = saved_by_peft(name, tiny_folder(kind), tmp_path / "theirs")
    read = peft_format.read(tmp_path / "theirs")
    live = type(read).build(read.settings(), {k: t.requires_grad_() for k, t in read.tensors().items()})
    found = tiny.encodings(base, TEXTS)
    theirs, ours = run_peft(model, found), run_ours(base, name, live, found)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for features in (theirs, ours):
        (tiny.normal(9, *features.shape) * features).sum().backward()
    gradients = {k: t.grad for k, t in live.tensors().items() if t.grad is not None}
    assert gradients.keys() == live.tensors().keys()
    peft_format.write(type(read).build(read.settings(), gradients), tmp_path / "ours", base_name="x")
    mine = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    its = {n.replace(".default", ""): p.grad for n, p in model.named_parameters() if p.grad is not None}
    if name != "lora":
        its = {"prompt_embeddings": next(iter(its.values()))}
    assert mine.keys() == its.keys()
    for key, gradient in its.items():
        torch.testing.assert_close(mine[key], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)
