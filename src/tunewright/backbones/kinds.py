"""Which class runs which kind of model."""

from collections.abc import Mapping

import torch

from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.masked import Masked
from tunewright.backbones.prefixed import PREFIX_BYTES
from tunewright.backbones.seq2seq import Seq2Seq

BACKBONES: Mapping[str, type[Backbone]] = {
    "encoder": Encoder,
    "decoder": Decoder,
    "masked": Masked,
    "seq2seq": Seq2Seq,
}
"""Kind, as in `checkpoint.KINDS` -> class."""


def open_backbone(
    checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, prefix_bytes: int = PREFIX_BYTES
) -> Backbone:
    """A checkpoint, ready to run.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
        prefix_bytes: Of the prefixes that a decoder keeps between passes, at most; an encoder keeps none.
    """
    if checkpoint.identity.kind == "decoder":
        return Decoder(checkpoint, dtype=dtype, device=device, prefix_bytes=prefix_bytes)
    return BACKBONES[checkpoint.identity.kind](checkpoint, dtype=dtype, device=device)
