"""PEFT's own folder format: prompt tuning, prefix tuning, LoRA, and what PEFT alone runs; p-tuning is read too.

Each part becomes a folder with `adapter_config.json` and `adapter_model.safetensors` that
`peft.PeftModel.from_pretrained` reads, and the other way round. Layouts as in peft 0.21 (`utils/save_and_load.py`,
`peft_model.py:get_prompt`).

Shapes: P virtual tokens, D width, L layers, H heads, d head width.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunewright.adapters.parts import MISFITS, Lora, Part, Prefix, SoftPrompt, Tuner
from tunewright.adapters.prompt_encoder import INPUTS, PromptEncoder
from tunewright.errors import AdapterError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_LORA_ROOT = "base_model.model."

ABOUT_FILES = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")
"""Settings of where an adapter is used, not of what it computes."""

FEATURES = "FEATURE_EXTRACTION"
LANGUAGE_MODELS = {"decoder": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
"""Kind of base -> PEFT's name for what it does when it writes."""


def write(part: Part, folder: Path, *, base_name: str, task_type: str = FEATURES, stem: str = "") -> None:
    """Writes one part as a PEFT folder.

    Args:
        part: A `SoftPrompt`, `Prefix`, `Lora` or `Tuner`.
        folder: Created if absent.
        base_name: Stored as PEFT's `base_model_name_or_path`.
        task_type: PEFT's, of what runs it: the bare base, or a language model.
        stem: What a language model puts before the base's module names.
    """
    config, tensors = _ENCODE[type(part)](part)
    common = {"task_type": task_type, "inference_mode": True, "base_model_name_or_path": base_name}
    if stem:
        whole = f"{_LORA_ROOT}{stem}."
        tensors = {whole + k.removeprefix(_LORA_ROOT) if k.startswith(_LORA_ROOT) else k: t for k, t in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(common | config, indent=1) + "\n", encoding="utf-8")
    write_tensors({k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, folder / WEIGHTS_FILE)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file.

    Raises:
        OSError: Disk full or read-only, which safetensors tells in words.
    """
    try:
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), str(error)) from None


def read_tensors(path: Path, todo: str) -> dict[str, Tensor]:
    """What a safetensors file holds.

    Raises:
        AdapterError: It cannot be read, or values are not finite; with what to do.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot read {path}: {error}. {todo}") from None
    broken = [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if broken:
        raise AdapterError(f"{path} holds values that are not finite in {broken[0]}. {todo}")
    return tensors


def read(folder: Path, *, stem: str = "") -> Part:
    """Reads a PEFT folder.

    Args:
        folder: PEFT's.
        stem: What stands before module names in a folder for a language model.

    Raises:
        AdapterError: Files missing or broken, a kind of adapter that is not run here (named), values not finite.
    """
    config = read_config(folder)
    tensors = read_tensors(folder / WEIGHTS_FILE, "Save the adapter again as safetensors, or train it again.")
    if stem and config.get("task_type") != FEATURES:
        whole = f"{_LORA_ROOT}{stem}."
        tensors = {_LORA_ROOT + k.removeprefix(whole) if k.startswith(whole) else k: t for k, t in tensors.items()}
    try:
        return _DECODE.get(str(config.get("peft_type")), _decode_tuner)(config, tensors)
    except MISFITS as error:
        raise AdapterError(f"{folder}: {CONFIG_FILE} does not fit its tensors: {error!r}. Save it again.") from None


def read_config(folder: Path) -> dict[str, Any]:
    """PEFT's settings of a folder.

    Raises:
        AdapterError: No such file, or not JSON.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{folder} is no adapter folder: {CONFIG_FILE} cannot be read ({error}).") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{folder} is no adapter folder: {CONFIG_FILE} holds no settings.")
    return config


def _encode_soft_prompt(part: SoftPrompt) -> tuple[dict[str, Any], dict[str, Tensor]]:
    length, width = part.vectors_PD.shape
    config = {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": length,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    return config, {"prompt_embeddings": part.vectors_PD}


def _decode_soft_prompt(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SoftPrompt:
    """Of an encoder-decoder PEFT stores as many vectors again, which it never reads."""
    vectors_PD = _prompt(tensors)
    if config.get("task_type") == LANGUAGE_MODELS["seq2seq"]:
        vectors_PD = vectors_PD[: int(config["num_virtual_tokens"])].clone()
    return SoftPrompt(vectors_PD=vectors_PD)


def _decode_p_tuning(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Part:
    """The final vectors, as PEFT saves them; or its whole `PromptEncoder`, which a user may have saved to go on."""
    named = {name.removeprefix("prompt_encoder.default."): tensor for name, tensor in tensors.items()}
    if INPUTS not in named:
        return _decode_soft_prompt(config, tensors)
    encoder = PromptEncoder(weights=named)
    assert encoder.vectors_PD.shape == named[INPUTS].shape, "layers that do not follow each other"
    return encoder


def _prompt(tensors: Mapping[str, Tensor]) -> Tensor:
    """The learned vectors, which must be all there is."""
    other = sorted(set(tensors) - {"prompt_embeddings"})
    if other:
        raise AdapterError(
            f"a prompt with {other[0]} beside it is not run here: that is a head of PEFT's own. "
            "Save the prompt with task_type CAUSAL_LM or FEATURE_EXTRACTION."
        )
    return tensors["prompt_embeddings"]


def _encode_prefix(part: Prefix) -> tuple[dict[str, Any], dict[str, Tensor]]:
    num_layers, num_heads, length, width = part.keys_LHPd.shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "num_layers": num_layers,
        "num_attention_heads": num_heads,
        "token_dim": num_heads * width,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    # PEFT stores one row for each virtual token: layer by layer, the key of all heads, then the value.
    both_LKHPd = torch.stack([part.keys_LHPd, part.values_LHPd], dim=1)
    flat = both_LKHPd.permute(3, 0, 1, 2, 4).reshape(length, -1)
    return config, {"prompt_embeddings": flat}


def _decode_prefix(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prefix:
    if config.get("prefix_projection"):
        raise AdapterError("prefix with prefix_projection is not run here. Export its final keys and values.")
    flat = _prompt(tensors)
    num_heads = int(config["num_attention_heads"])
    both = flat.view(flat.shape[0], int(config["num_layers"]), 2, num_heads, -1).permute(1, 2, 3, 0, 4)
    return Prefix(keys_LHPd=both[:, 0].contiguous(), values_LHPd=both[:, 1].contiguous())


def _encode_lora(part: Lora) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = {
        "peft_type": "LORA",
        "r": part.rank,
        "lora_alpha": part.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(part.down),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    tensors = {f"{_LORA_ROOT}{name}.lora_A.weight": t for name, t in part.down.items()}
    return config, tensors | {f"{_LORA_ROOT}{name}.lora_B.weight": t for name, t in part.up.items()}


def _decode_lora(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Lora | Tuner:
    if config.get("use_dora"):
        return _decode_tuner(config, tensors)
    unsupported = [key for key in ("use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_CHANGES_BASE):
        unsupported.append(f"init_lora_weights={start}, which changes the base,")
    if unsupported or config.get("bias", "none") != "none":
        raise AdapterError(f"LoRA with {', '.join(unsupported) or 'bias'} is not run here. Merge it with PEFT first.")
    other = [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    if other:
        raise AdapterError(f"LoRA with {other[0]} is not run here. Allowed: factors of linear layers.")

    def of(kind: str) -> dict[str, Tensor]:
        end = f".{kind}.weight"
        return {k.removeprefix(_LORA_ROOT).removesuffix(end): t for k, t in tensors.items() if k.endswith(end)}

    down, up = of("lora_A"), of("lora_B")
    assert down, "no factors"
    assert down.keys() == up.keys(), "a factor without the other"
    return Lora(alpha=float(config["lora_alpha"]), down=down, up=up)


def _decode_tuner(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tuner:
    """What PEFT alone knows how to run: as it is. Which of its tensors learn stands in no file of PEFT's."""
    return Tuner(config={k: v for k, v in config.items() if k not in ABOUT_FILES}, values=dict(tensors), trained=())


_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of starts that PEFT takes off the base's weights, also when it loads: on the base as it is, wrong."""


_ENCODE: dict[type, Callable[[Any], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    SoftPrompt: _encode_soft_prompt,
    Prefix: _encode_prefix,
    Lora: _encode_lora,
    Tuner: lambda part: (dict(part.config), dict(part.values)),
}
_DECODE: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor]], Part]] = {
    "PROMPT_TUNING": _decode_soft_prompt,
    "P_TUNING": _decode_p_tuning,
    "PREFIX_TUNING": _decode_prefix,
    "LORA": _decode_lora,
}
PEFT_PARTS = ("soft_prompt", "prefix", "lora", "tuner")
"""Fields of `Adapter` that are stored in PEFT's format."""
