"""PEFT's CAUSAL_LM and ours: the same log-probabilities of every token, with folders that go both ways."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tests.parity.test_peft import part
from tests.parity.test_peft_decoders import LENGTH, LINEARS
from tests.parity.test_peft_foreign import language_model, randomised
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Encoding
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.foreign import read_foreign

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]
TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!"]
COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH}
CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "soft_prompt": lambda: peft.PromptTuningConfig(**COMMON),
    "p-tuning": lambda: peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(**COMMON),
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=12, target_modules=LINEARS),
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
    pytest.mark.parametrize("kind", tiny.DECODERS),
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def by_peft(model: torch.nn.Module, found: list[Encoding]) -> list[Tensor]:
    """Log-probability of each token after the first, from one batch padded on the right, next to the prompt."""
    width = max(len(e.ids) for e in found)
    ids = torch.tensor([[*e.ids, *[0] * (width - len(e.ids))] for e in found])
    mask = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in found])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    shares = logits[:, logits.shape[1] - width :].log_softmax(-1)
    return [row[torch.arange(len(e.ids) - 1), list(e.ids[1:])] for row, e in zip(shares, found, strict=True)]


def by_us(base: Decoder, adapter: Adapter, found: list[Encoding]) -> list[Tensor]:
    first = [Encoding(ids=e.ids[:1], type_ids=(0,)) for e in found]
    with torch.no_grad():
        return base.answer_log_probs(tiny.rows(adapter, first), [e.ids[1:] for e in found])


def assert_same(ours: list[Tensor], theirs: list[Tensor], bare: list[Tensor]) -> None:
    for mine, its, without in zip(ours, theirs, bare, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
        assert (its - without).abs().max() > 1e-3, "the adapter does nothing"


def unable(name: str, kind: str) -> bool:
    """PEFT takes the model's width for the embeddings'."""
    return name in ("soft_prompt", "p-tuning") and kind == "opt"


@pytest.mark.parametrize("name", CONFIGS)
def test_we_read_peft(name: str, kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    if unable(name, kind):
        pytest.skip("peft takes the model's width for the embeddings'")
    model = peft.get_peft_model(language_model(tiny_folder(kind)), CONFIGS[name]()).eval()
    randomised(model, 0.1 if name == "lora" else 0.4)
    model.save_pretrained(str(tmp_path))
    base = tiny_decoder(kind)
    found = tiny.encodings(base, TEXTS)
    adapter = read_foreign(tmp_path, base)
    assert_same(by_us(base, adapter, found), by_peft(model, found), by_us(base, tiny.adapter(base), found))


@pytest.mark.parametrize("name", ["soft_prompt", "prefix", "lora"])
def test_peft_reads_ours(
    name: str, kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path
) -> None:
    """An adapter that answers in text is stored as PEFT's CAUSAL_LM, by the names its layers have there."""
    if unable(name, kind):
        pytest.skip("peft takes the model's width for the embeddings'")
    base = tiny_decoder(kind)
    adapter = replace(tiny.adapter(base, **{name: part(name, base)}), head=None, labels=())
    folder.save(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "peft" / name
    model = peft.PeftModel.from_pretrained(language_model(tiny_folder(kind)), path).eval()
    assert isinstance(model, peft.PeftModelForCausalLM)
    found = tiny.encodings(base, TEXTS)
    assert_same(by_us(base, adapter, found), by_peft(model, found), by_us(base, tiny.adapter(base), found))
    again = folder.load(tmp_path / "adapter")
    assert again.sha256() == adapter.sha256()
