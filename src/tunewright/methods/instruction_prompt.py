"""Instruction prompt: a soft prompt before answered examples, which stand before each row (Sun et al. 2023)."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import SoftPrompt
from tunewright.methods import soft_prompt
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.heads import start_vectors
from tunewright.methods.prompting import asking, cannot_be_asked, prompts, shown, templates
from tunewright.types import Params


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Embeddings of words, then the prompt with its demonstrations; answered by the labels' words or in text."""
    vectors_PD = start_vectors(material, str(params["init"]), int(params["length"]), rng)
    prompt = prompts(material)[str(params["template"])]
    prompt, rows = shown(
        material, prompt, int(params["shots"]), rng, stratified=bool(material.task.labels), taken_tokens=len(vectors_PD)
    )
    adapter = material.adapter(soft_prompt=SoftPrompt(vectors_PD=vectors_PD), **asking(material, prompt))
    return adapter.with_about({"shots": len(rows)})


def space(material: Material) -> Space:
    """As of a soft prompt; the template, and how many rows are shown."""
    shots = tuple(k for k in (4, 2, 8, 1) if k <= len(material.examples) // 2) or (1,)
    return {
        **{name: choice for name, choice in soft_prompt.space(material).items() if name != "answer"},
        "template": templates(material),
        "shots": Choice(options=shots),
    }


METHOD = Method(
    name="instruction-prompt",
    family="soft prompts",
    summary="Learns vectors before answered examples, which stand before each text; the base stays frozen.",
    trains="P D",
    serves="P more tokens and the examples, run once",
    place=place,
    space=space,
    trained=soft_prompt.trained,
    refuses=cannot_be_asked,
    by_words=True,
    kinds=("classify", "generate"),
    learns="soft_prompt",
)
