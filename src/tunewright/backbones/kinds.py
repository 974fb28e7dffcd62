"""Which class runs which kind of model."""

from collections.abc import Mapping

import torch

from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder

BACKBONES: Mapping[str, type[Backbone]] = {"encoder": Encoder, "decoder": Decoder}
"""Kind, as in `checkpoint.KINDS` -> class."""


def open_backbone(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> Backbone:
    """A checkpoint, ready to run.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """
    return BACKBONES[checkpoint.identity.kind](checkpoint, dtype=dtype, device=device)
