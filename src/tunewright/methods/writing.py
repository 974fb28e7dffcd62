"""What methods place so that a decoder answers with texts: a template, how to decode, demonstrations."""

import math

import numpy as np

from tunewright.adapters.parts import Decoding, Template
from tunewright.methods.base import Material
from tunewright.prompts.writing import PLAIN, demonstrated

_USUAL = 0.99
"""Share of the training targets that fit in what may be written."""

_DEMONSTRATED = 0.5
"""Share of what targets leave of the context that demonstrations may take."""


def written(material: Material, template: tuple[str, str] = PLAIN) -> dict[str, object]:
    """The parts of an adapter that writes: the template, and greedy decoding as long as training targets are.

    A line ends the text where no training target has several.
    """
    lengths = [len(ids) for ids in material.rows.answers]
    has_lines = any("\n" in str(example.target) for example in material.examples)
    decoding = Decoding(
        max_new_tokens=max(1, math.ceil(float(np.quantile(lengths, _USUAL)))), stop=() if has_lines else ("\n",)
    )
    return {"template": Template(fixed=template[0], row=template[1]), "decoding": decoding}


def shown(material: Material, template: tuple[str, str], num_shots: int, rng: np.random.Generator) -> tuple[str, str]:
    """The template with that many training rows of different inputs as demonstrations, or as many as fit."""
    fill = Template(fixed=template[0], row=template[1]).fill
    chosen: list[tuple[str, str]] = []
    room = _DEMONSTRATED * material.room_tokens
    for position in rng.permutation(len(material.examples)).tolist():
        example = material.examples[position]
        one = (fill(example.text, example.text_pair), str(example.target))
        size = len(material.backbone.token_ids(f"{one[0]} {one[1]}\n\n"))
        if len(chosen) < num_shots and size <= room and one[0] not in {filled for filled, _ in chosen}:
            chosen.append(one)
            room -= size
    return demonstrated(template, chosen)
