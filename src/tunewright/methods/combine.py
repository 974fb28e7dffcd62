"""Combine: LoRA under the best prompt that a search finds, or LoRA with a soft prompt."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.methods import lora, soft_prompt
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.heads import head_rates, inits, lengths
from tunewright.methods.prompt_search import search
from tunewright.methods.prompting import asking
from tunewright.training.optim import Rates
from tunewright.types import Params

PROMPT_RATE = 10.0
"""Of the LoRA's rate, which is low for a soft prompt."""

_POOL = 16
"""Prompts that the search draws."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A LoRA as by itself; beside it what it is combined with. The search is part of placing, and of its time."""
    if params["with"] == "soft-prompt":
        low_rank = lora.place(material, params, rng)
        vectors = soft_prompt.place(material, params, rng).soft_prompt
        return material.adapter(lora=low_rank.lora, soft_prompt=vectors, head=low_rank.head, **_written(low_rank))
    factors = lora.factors(material, params, rng, writing=True)
    prompt = search(material, _POOL, rng).prompt
    return material.adapter(lora=factors, **asking(material, prompt))


def _written(adapter: Adapter) -> dict[str, object]:
    return {"template": adapter.template, "decoding": adapter.decoding}


def trained(adapter: Adapter, params: Params, progress: float) -> Rates:
    """Both factors, and what is there of soft prompt and head."""
    rates = {name: 1.0 for name in adapter.tensors() if name.startswith("lora.")}
    prompt = {} if adapter.soft_prompt is None else {"soft_prompt.vectors": PROMPT_RATE}
    return {**rates, **prompt, **head_rates(adapter, 1.0)}


def space(material: Material) -> Space:
    """As of LoRA; what it is combined with, and of a soft prompt its length and start."""
    return {
        **{name: choice for name, choice in lora.space(material).items() if name != "answer"},
        "with": Choice(options=("template", "soft-prompt") if material.backbone.answers_prompts else ("soft-prompt",)),
        "length": lengths((10, 20, 5), material),
        "init": inits(material),
    }


METHOD = Method(
    name="combine",
    family="fine-tuning",
    summary="Learns low-rank updates under the best searched prompt, or together with a soft prompt.",
    trains="r (in + out) for each linear layer, + P D + (D + 1) C with a soft prompt",
    serves="two thin matrix products beside each linear layer, and the prompt",
    place=place,
    space=space,
    trained=trained,
    by_words=True,
    kinds=("classify", "generate"),
)
