"""An adapter from a folder of PEFT's: the part, on a base that the user names. It says neither labels nor hashes."""

from dataclasses import replace
from pathlib import Path

from tunewright.adapters import peft_format
from tunewright.adapters.adapter import PARTS, Adapter
from tunewright.adapters.parts import Lora, Prefix, Tuner
from tunewright.adapters.prompt_encoder import PromptEncoder
from tunewright.backbones.base import Base
from tunewright.backbones.tuners import renamed
from tunewright.errors import AdapterError


def is_foreign(folder: Path) -> bool:
    """Whether it is a folder of PEFT's and not one of ours."""
    return (folder / peft_format.CONFIG_FILE).exists() and not (folder / "adapter.json").exists()


def read_foreign(folder: Path, backbone: Base) -> Adapter:
    """The part of a PEFT folder as an adapter without labels.

    Raises:
        AdapterError: Not readable, of a kind that is not run here (named), or it does not fit the base.
    """
    part = peft_format.read(folder)
    if isinstance(part, Prefix) and backbone.answers_apart:
        raise AdapterError(
            f"{folder} is a prefix that PEFT puts before the decoder's own tokens; that of {backbone.identity.name} "
            "stands before the encoder's here. Train one with --methods prefix, or give a soft prompt or a LoRA."
        )
    if isinstance(part, Lora):
        part = _renamed(part, backbone)
    elif isinstance(part, Tuner):
        part = renamed(part, list(backbone.linears))
    prompt = isinstance(part, PromptEncoder)
    name = "soft_prompt" if prompt else next(n for n in peft_format.PEFT_PARTS if isinstance(part, PARTS[n]))
    parts = {name: part}
    adapter = Adapter(base=backbone.identity, labels=(), max_tokens=backbone.max_tokens, **parts)  # type: ignore[arg-type]
    backbone.check(adapter)
    return adapter.settled()


def named_base(folder: Path) -> str:
    """The base a PEFT folder names.

    Raises:
        AdapterError: It names none.
    """
    name = peft_format.read_config(folder).get("base_model_name_or_path")
    if not name:
        raise AdapterError(f"{folder} does not say on which base it was trained. Give it with --model.")
    return str(name)


def _renamed(lora: Lora, backbone: Base) -> Lora:
    """Names as in the bare base: a language model or a classifier calls the same layers `model.layers.0...`."""

    def bare(name: str) -> str:
        return name if name in backbone.linears else name.partition(".")[2]

    return replace(
        lora,
        down={bare(name): tensor for name, tensor in lora.down.items()},
        up={bare(name): tensor for name, tensor in lora.up.items()},
    )
