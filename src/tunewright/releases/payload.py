"""A soft prompt for vLLM: a request's body with `prompt_embeds`, the one thing that is written as torch saves it.

Such a tensor is a pickle inside a zip; it is made for vLLM, which reads it with `weights_only=True`, and is never read
here.

Shapes: P virtual tokens, T tokens of the text, D width.
"""

import base64
import io

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding
from tunewright.backbones.backbone import Backbone
from tunewright.data.chats import spoken
from tunewright.errors import AdapterError
from tunewright.types import Example


def prompt_vectors(adapter: Adapter, base: Backbone, text: str) -> Tensor:
    """What enters the base: the soft prompt's vectors, then the embeddings of the text, fp32 [P + T, D].

    Args:
        adapter: With a soft prompt.
        base: Its base, a decoder.
        text: Tokenised as in training, within the adapter's template, cut to what is left for it.

    Raises:
        AdapterError: No soft prompt, or the base is no decoder.
    """
    if adapter.soft_prompt is None:
        raise AdapterError(f"the adapter has no soft prompt to send to vLLM. It has: {', '.join(adapter.parts())}.")
    if not base.is_causal:
        raise AdapterError(f"vLLM takes prompt_embeds for decoders. Got a base of kind {adapter.base.kind}.")
    (encoding,) = base.encode_for([spoken(Example(id="1", text=text), adapter.about)], adapter)
    fixed = () if adapter.template is None else base.fixed_ids(adapter.template.fixed)
    embeds_TD = base.word_embeddings[torch.tensor([*fixed, *encoding.ids])]
    return torch.cat([adapter.soft_prompt.vectors_PD.detach().float().cpu(), embeds_TD.float().cpu()])


def body(vectors_ND: Tensor, decoding: Decoding, *, model: str) -> dict[str, object]:
    """A body for vLLM's `/v1/completions`, started with `--enable-prompt-embeds`.

    Args:
        vectors_ND: From `prompt_vectors`.
        decoding: How to answer.
        model: As vLLM calls it.
    """
    buffer = io.BytesIO()
    torch.save(vectors_ND.contiguous().clone(), buffer)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    settings = decoding.settings()
    return {"model": model, "prompt_embeds": encoded, "max_tokens": settings.pop("max_new_tokens"), **settings}
