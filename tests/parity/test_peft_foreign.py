"""Folders that PEFT saved from language models, and where PEFT and we differ on purpose."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.tuners.p_tuning import PromptEncoderReparameterizationType
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from tests.parity.test_peft import plain_model
from tests.parity.test_peft_decoders import LENGTH, LINEARS, TEXTS, run_peft
from tunewright.adapters import peft_format
from tunewright.adapters.parts import SoftPrompt
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.foreign import is_foreign, read_foreign
from tunewright.errors import AdapterError

GetDecoder = Callable[[str], Decoder]
GetFolder = Callable[[str], Path]
PROMPT: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*"),  # peft's own
    pytest.mark.usefixtures("_quiet"),
]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def language_model(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def randomised(model: torch.nn.Module, scale: float) -> None:
    with torch.no_grad():
        for k, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.copy_(tiny.normal(k, *parameter.shape, scale=scale))


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_p_tuning_both_forms(network: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """The vectors that PEFT saves, and its whole prompt encoder, are the same prompt and give PEFT's features."""
    config = peft.PromptEncoderConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=LENGTH,
        encoder_hidden_size=12,
        encoder_reparameterization_type=PromptEncoderReparameterizationType(network.upper()),
        encoder_num_layers=2,
    )
    model = peft.get_peft_model(plain_model(tiny_folder("llama")), config).eval()
    randomised(model, 0.4)
    model.save_pretrained(str(tmp_path / "vectors"))
    model.save_pretrained(str(tmp_path / "network"))
    encoder = {k: v.contiguous() for k, v in model.prompt_encoder.state_dict(prefix="prompt_encoder.").items()}
    save_file(encoder, tmp_path / "network" / "adapter_model.safetensors")
    base = tiny_decoder("llama")
    found = tiny.encodings(base, TEXTS)
    with torch.no_grad():
        theirs = run_peft(model, found)
    for form in ("vectors", "network"):
        assert is_foreign(tmp_path / form)
        adapter = replace(read_foreign(tmp_path / form, base), head=tiny.head(base, 1), labels=tuple(tiny.GROUPS))
        assert isinstance(adapter.soft_prompt, SoftPrompt)
        torch.testing.assert_close(base.features(tiny.rows(adapter, found)), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "opt", "bloom"])
def test_lora_of_a_language_model(kind: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """Its layers have longer names there; the last hidden state is PEFT's."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=12, target_modules=LINEARS)
    model = peft.get_peft_model(language_model(tiny_folder(kind)), config).eval()
    randomised(model, 0.1)
    model.save_pretrained(str(tmp_path))
    base = tiny_decoder(kind)
    adapter = read_foreign(tmp_path, base)
    (found,) = tiny.encodings(base, TEXTS[1:2])
    with torch.no_grad():
        states = model(input_ids=torch.tensor([found.ids]), output_hidden_states=True).hidden_states
        bare = base.features(tiny.rows(tiny.adapter(base), [found]))
        ours = base.features(tiny.rows(replace(adapter, head=tiny.head(base, 1)), [found]))
    assert (ours - bare).abs().max() > 1e-2
    if ours.shape[1] == states[-1].shape[2]:  # the smaller OPT models narrow their states after the last layer
        torch.testing.assert_close(ours, states[-1][:, -1], atol=1e-5, rtol=1e-5)


def test_pads_between_prompt_and_text(tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """PEFT puts the prompt at index 0: under left padding the pads of a short row stand between it and the text.

    So there a row depends on the longest of its batch; here it does not, and equals PEFT's without padding.
    """
    config = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH)
    model = peft.get_peft_model(plain_model(tiny_folder("llama")), config).eval()
    randomised(model, 0.4)
    model.save_pretrained(str(tmp_path))
    base = tiny_decoder("llama")
    found = tiny.encodings(base, TEXTS)
    width = max(len(e.ids) for e in found)
    ids = torch.tensor([[*[0] * (width - len(e.ids)), *e.ids] for e in found])
    mask = torch.tensor([[*[0] * (width - len(e.ids)), *[1] * len(e.ids)] for e in found])
    with torch.no_grad():
        padded = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, -1]
        alone = torch.cat([run_peft(model, [e]) for e in found])
        ours = base.features(tiny.rows(replace(read_foreign(tmp_path, base), head=tiny.head(base, 1)), found))
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    apart = (padded - alone).abs().amax(-1)
    is_short = torch.tensor([len(e.ids) < width for e in found])
    assert is_short.sum() == 3
    assert (apart[is_short] > 1e-3).all()
    assert (apart[~is_short] < 1e-5).all()


REFUSED: Mapping[str, Callable[[], peft.PeftConfig]] = {
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(**PROMPT, num_tasks=2),
    "CPT": lambda: peft.CPTConfig(
        task_type="CAUSAL_LM", cpt_token_ids=[1, 2], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2]
    ),
    "prefix_projection": lambda: peft.PrefixTuningConfig(**PROMPT, prefix_projection=True, encoder_hidden_size=8),
    "init_lora_weights=pissa": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights="pissa"
    ),
    "init_lora_weights=olora": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], init_lora_weights="olora"
    ),
    "embed_tokens": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens"]),
    "score": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH),
}


@pytest.mark.parametrize("word", REFUSED)
def test_kinds_that_are_not_run(word: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """Named, whatever is not run, before any of it is lost in silence."""
    opens = transformers.AutoModelForSequenceClassification if word == "score" else transformers.AutoModelForCausalLM
    plain = opens.from_pretrained(tiny_folder("llama"), dtype=torch.float32)
    peft.get_peft_model(plain, REFUSED[word]()).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=word):
        read_foreign(tmp_path, tiny_decoder("llama"))


@pytest.mark.parametrize("kept", ["", "lora_A"])
def test_lora_without_its_factors(kept: str, tiny_decoder: GetDecoder, tiny_folder: GetFolder, tmp_path: Path) -> None:
    """None at all would change nothing in silence; half of them are no LoRA."""
    model = peft.get_peft_model(language_model(tiny_folder("llama")), peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: t for k, t in tensors.items() if kept and kept in k}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="does not fit its tensors"):
        read_foreign(tmp_path, tiny_decoder("llama"))


def test_bad_values(tiny_decoder: GetDecoder, tmp_path: Path) -> None:
    """Not finite, without vectors, as wide as another base, longer than the context."""
    base = tiny_decoder("llama")

    def saved(name: str, vectors: Tensor) -> Path:
        peft_format.write(SoftPrompt(vectors_PD=vectors), tmp_path / name, base_name="x")
        return tmp_path / name

    good = tiny.normal(1, 4, 32)
    broken = good.clone()
    broken[2, 3] = float("inf")
    for path, said in (
        (saved("infinite", broken), "not finite in prompt_embeddings"),
        (saved("empty", good[:0]), r"shape \[0, 32\]"),
        (saved("wide", tiny.normal(1, 4, 48)), r"shape \[4, 48\].*\[4, 32\]"),
        (saved("long", tiny.normal(1, tiny.MAX_TOKENS, 32)), "no room for a text"),
    ):
        with pytest.raises(AdapterError, match=said):
            read_foreign(path, base)
    tensors = load_file(saved("good", good) / "adapter_model.safetensors")
    assert torch.equal(tensors["prompt_embeddings"], good)
    assert read_foreign(tmp_path / "good", base).prefix_tokens == 4
