"""Which class runs which kind of model, and whether a model runs here at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Base
from tunewright.backbones.checkpoint import Checkpoint, load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.masked import Masked
from tunewright.backbones.prefixed import PREFIX_BYTES
from tunewright.backbones.seq2seq import Seq2Seq
from tunewright.config import REMOTE
from tunewright.errors import ModelError

if TYPE_CHECKING:
    from tunewright.backbones.endpoint import Endpoint

BACKBONES: Mapping[str, type[Backbone]] = {"encoder": Encoder, "decoder": Decoder, "masked": Masked, "seq2seq": Seq2Seq}
"""Kind, as in `checkpoint.KINDS` -> class."""


def open_backbone(
    checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int = PREFIX_BYTES
) -> Backbone:
    """A checkpoint, ready to run.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
        prefix_bytes: Of the prefixes that a base keeps between passes, at most; without effect where it keeps none.
    """
    made = BACKBONES[checkpoint.identity.kind]
    return made.open(checkpoint, dtype=dtype, device=device, prefix_bytes=prefix_bytes)


def find_base(name: str, *, is_given: bool = True, kept: Path | None = None) -> "Checkpoint | Endpoint":
    """A base that is here, loaded, or an endpoint that has answered.

    Args:
        name: As of `load_checkpoint`, or `openai:MODEL@URL`.
        is_given: Whether the user named it. A file that came from somebody else may name any endpoint, and must not
            say where the user's key is sent.
        kept: A run's own file of what it is answered.

    Raises:
        ModelError: No such model, a broken one, or an endpoint that does not answer or that only a file names.
    """
    if not name.startswith(REMOTE):
        return load_checkpoint(name)
    try:
        from tunewright.backbones.endpoint import KEY, OPENAI, Endpoint, parse_name  # its client is an extra
        from tunewright.backbones.replies import Cache, cache_path
    except ImportError:
        raise ModelError(f"{name} needs the openai client. Run: pip install 'tunewright[remote]'.") from None
    model, url = parse_name(name)
    if not is_given and url not in (OPENAI, parse_name(f"{REMOTE}{model}")[1]):
        todo = f"If you know it, repeat it with --model {name} (in Python: Predictor.load(..., model=...))."
        raise ModelError(f"the adapter names an endpoint to which your {KEY} would be sent: {url}. {todo}")
    return Endpoint(name, cache=Cache(cache_path(), kept=kept)).connect()


def open_base(found: "Checkpoint | Endpoint", *, dtype: torch.dtype, device: torch.device) -> Base:
    """What was found, ready to answer.

    Args:
        found: By `find_base`.
        dtype: Precision to run frozen weights in.
        device: Where to run them.
    """
    if found.is_here:
        return open_backbone(found, dtype=dtype, device=device)
    from tunewright.backbones.remote import Remote

    return Remote(found)
