"""PEFT's SEQ_2_SEQ_LM and ours: the same log-probabilities of every token, with folders that go both ways."""

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
from tests.parity.test_peft import LENGTH, part
from tests.parity.test_peft_foreign import randomised
from tests.parity.test_seq2seq import TEXTS, GetFolder, GetSeq2Seq, whole_model
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Encoding
from tunewright.backbones.foreign import read_foreign
from tunewright.backbones.seq2seq import Seq2Seq
from tunewright.errors import AdapterError
from tunewright.releases.export import export

COMMON: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": LENGTH}
LINEARS = r".*\.\d+\..*(\.q|\.k|\.v|\.o|wi|wo|wi_0|wi_1|q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "soft_prompt": lambda: peft.PromptTuningConfig(**COMMON),
    "p-tuning": lambda: peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    "lora": lambda: peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=12, target_modules=LINEARS),
}
ANSWERS = ["food", "the old bridge near it", "travel", "the"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
    pytest.mark.parametrize("kind", ["t5", "bart"]),
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def by_peft(model: Any, base: Seq2Seq, found: list[Encoding]) -> list[Tensor]:
    """Log-probability of each token of the answers, row by row."""
    found_log_probs = []
    for encoding, text in zip(found, ANSWERS, strict=True):
        ids = base.encode_answer(text)
        start = base._start_ids
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([list(encoding.ids)]),
                attention_mask=torch.ones(1, len(encoding.ids), dtype=torch.long),
                decoder_input_ids=torch.tensor([[*start, *ids[:-1]]]),
            ).logits[0, len(start) - 1 :]
        found_log_probs.append(logits.log_softmax(-1)[torch.arange(len(ids)), list(ids)])
    return found_log_probs


def by_us(base: Seq2Seq, adapter: Adapter, found: list[Encoding]) -> list[Tensor]:
    with torch.no_grad():
        return base.answer_log_probs(tiny.rows(adapter, found), [base.encode_answer(text) for text in ANSWERS])


def assert_same(ours: list[Tensor], theirs: list[Tensor], bare: list[Tensor]) -> None:
    for mine, its, without in zip(ours, theirs, bare, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-5, rtol=1e-5)
        assert (its - without).abs().max() > 1e-3, "the adapter does nothing"


@pytest.mark.parametrize("name", CONFIGS)
def test_we_read_peft(name: str, kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """Of a prompt PEFT stores twice as many vectors as it reads."""
    model = peft.get_peft_model(whole_model(tiny_folder(kind)), CONFIGS[name]()).eval()
    randomised(model, 0.1 if name == "lora" else 0.4)
    model.save_pretrained(str(tmp_path))
    base = tiny_seq2seq(kind)
    found = tiny.encodings(base, TEXTS)
    adapter = read_foreign(tmp_path, base)
    if name != "lora":
        assert adapter.prefix_tokens == LENGTH
    assert_same(by_us(base, adapter, found), by_peft(model, base, found), by_us(base, tiny.adapter(base), found))


@pytest.mark.parametrize("name", ["soft_prompt", "lora"])
def test_peft_reads_ours(
    name: str, kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder, tmp_path: Path
) -> None:
    base = tiny_seq2seq(kind)
    adapter = replace(tiny.adapter(base, **{name: part(name, base)}), head=None, labels=())
    folder.save(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / "peft" / name
    model = peft.PeftModel.from_pretrained(whole_model(tiny_folder(kind)), path).eval()
    assert isinstance(model, peft.PeftModelForSeq2SeqLM)
    found = tiny.encodings(base, TEXTS)
    assert_same(by_us(base, adapter, found), by_peft(model, base, found), by_us(base, tiny.adapter(base), found))
    assert folder.load(tmp_path / "adapter").sha256() == adapter.sha256()


def test_prefixes_stand_elsewhere(kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """PEFT's go before the decoder's tokens, ours before the encoder's: none is taken for the other."""
    model = peft.get_peft_model(whole_model(tiny_folder(kind)), peft.PrefixTuningConfig(**COMMON)).eval()
    model.save_pretrained(str(tmp_path / "theirs"))
    base = tiny_seq2seq(kind)
    with pytest.raises(AdapterError, match="before the decoder's own tokens"):
        read_foreign(tmp_path / "theirs", base)
    adapter = tiny.adapter(base, prefix=tiny.prefix(base, 4, seed=1), lora=tiny.lora(base, 2, seed=2))
    folder.save(adapter, tmp_path / "ours")
    assert {path.name for path in (tmp_path / "ours" / "peft").iterdir()} == {"lora"}
    assert folder.load(tmp_path / "ours").sha256() == adapter.sha256()
    exported = export(adapter, "peft", tmp_path / "exported")
    assert (exported.kept, exported.lost) == (("lora",), ("prefix", "head"))
