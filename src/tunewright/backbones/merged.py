"""Weights and LoRA merged into a checkpoint of transformers' own, for servers that know nothing else.

Shapes: O output width, I input width, V rows of the vocabulary.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.checkpoint import locate
from tunewright.runtime import quiet_libraries

_POOLING_FOLDER = "1_Pooling"


def write_merged(name: str, adapter: Adapter, folder: Path) -> None:
    """Writes the base as a checkpoint in fp32, the adapter's weights and LoRA in it; a head for text stays.

    Args:
        name: The base's name or folder; that it is the adapter's own has been checked.
        adapter: With `weights` or `lora`.
        folder: Exists and is empty.
    """
    source = locate(name)
    with quiet_libraries(), torch.no_grad():
        model = _whole(source)
        base = model.base_model
        _merge_weights(base, adapter)
        if adapter.lora is not None:
            for layer, delta_OI in _deltas(adapter).items():
                module = base.get_submodule(layer)
                module.weight += _as_stored(module, delta_OI)
        model.save_pretrained(folder, max_shard_size="1TB")
        AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(folder)
    if (Path(source) / _POOLING_FOLDER).is_dir():  # without it an encoder would be read as pooling by the mean
        shutil.copytree(Path(source) / _POOLING_FOLDER, folder / _POOLING_FOLDER)


def _whole(source: str) -> Any:
    """The model in fp32; one that was saved with a head for the next token keeps it."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    named = next(iter(config.architectures), "") if config.architectures else ""
    writes = named.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) and hasattr(transformers, named)
    kind = getattr(transformers, named) if writes else AutoModel
    return kind.from_pretrained(source, dtype=torch.float32, use_safetensors=True)


def _merge_weights(base: Any, adapter: Adapter) -> None:
    if adapter.weights is None:
        return
    parameters, modules = dict(base.named_parameters()), dict(base.named_modules())
    for name, value in adapter.weights.values.items():
        if name == adapter.weights.vocabulary:
            parameters[name][adapter.weights.vocabulary_ids_V] = value
        else:
            parameters[name].copy_(_as_stored(modules[name.rpartition(".")[0]], value))


def _deltas(adapter: Adapter) -> Mapping[str, Tensor]:
    """Module name -> what its LoRA adds to the weight, [O, I]."""
    lora = adapter.lora
    assert lora is not None
    return {name: lora.scaling * (lora.up[name].float() @ down.float()) for name, down in lora.down.items()}


def _as_stored(module: nn.Module, value: Tensor) -> Tensor:
    """GPT-2 keeps its linear layers transposed."""
    return value.T if isinstance(module, Conv1D) and value.ndim == 2 else value
