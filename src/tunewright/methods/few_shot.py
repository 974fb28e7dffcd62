"""Few-shot: a base that writes sees answered examples before each row; for others the nearest examples vote."""

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import DemonstrationPool, Template, Verbalizer
from tunewright.backbones.answers import unit
from tunewright.data.labels import in_words
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.writing import shown, written
from tunewright.methods.zero_shot import calibrated, fitting
from tunewright.prompts.templates import prompt
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.prompts.writing import INSTRUCTIONS, demonstrated
from tunewright.types import Example, Params, whole_text


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """Some training rows before every row, run once; or all of them as a pool with their features."""
    if material.task.kind == "generate":
        template = INSTRUCTIONS[str(params["template"])]
        return material.adapter(**written(material, shown(material, template, int(params["shots"]), rng)))
    if material.backbone.writes:
        return _answered(material, params, rng)
    pool = DemonstrationPool(
        texts=tuple(whole_text(e) for e in material.examples),
        labels_N=material.rows.labels_N,
        vectors_ND=unit(material.store(material.rows.encodings)),
        num_neighbours=int(params["neighbours"]),
        temperature=float(params["temperature"]),
    )
    return material.adapter(demonstrations=pool)


def _answered(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """As many of the drawn rows as leave half of the context to the row and its answer."""
    template = prompt(material.task, str(params["template"]))
    fill, base = Template(fixed="", row=template[1]).fill, material.backbone
    drawn = draw(material, int(params["shots"]), rng, by_label=params["choice"] == "stratified")
    rows = [(fill(e.text, e.text_pair), in_words(str(e.label))) for e in drawn]
    while rows and len(base.token_ids(demonstrated(template, rows)[0])) > base.max_tokens // 2:
        rows.remove(max(rows, key=lambda row: len(row[0])))
    fixed, row = demonstrated(template, rows)
    groups = label_phrases(material.task, "name", TEMPLATES["bare"])
    adapter = material.adapter(
        template=Template(fixed=fixed, row=row),
        verbalizer=Verbalizer(phrases=groups, scale=1.0),
    )
    return calibrated(adapter, material, params).with_about({"shots": len(rows)})


def draw(material: Material, count: int, rng: np.random.Generator, *, by_label: bool) -> list[Example]:
    """Training rows in random order; by label, each label in turn as long as it has rows."""
    order = [int(k) for k in rng.permutation(len(material.examples))]
    if by_label:
        turns = dict.fromkeys(range(material.num_labels), 0)
        turn_of = dict[int, int]()
        for k in order:
            label = int(material.rows.labels_N[k])
            turn_of[k] = turns[label]
            turns[label] += 1
        order = sorted(order, key=turn_of.__getitem__)
    chosen = [material.examples[k] for k in order[:count]]
    return [chosen[int(k)] for k in rng.permutation(len(chosen))]


def space(material: Material) -> Space:
    """How many rows are shown, which, and under which words; or how many vote, and how much more the nearer count."""
    if material.task.kind == "generate":
        return {"shots": Choice(options=(4, 2, 8, 16)), "template": Choice(options=tuple(INSTRUCTIONS))}
    most = max(1, len(material.examples) // 2)
    if material.backbone.writes:
        return {
            "shots": Choice(options=tuple(k for k in (8, 16, 4, 32) if k <= most) or (1,)),
            "template": Choice(options=fitting(material)),
            "choice": Choice(options=("stratified", "random")),
            "calibration": Choice(options=("uniform", "contextual", "none")),
        }
    counts = tuple(k for k in (8, 1, 3, 16, 32, 64) if k <= most)
    return {"neighbours": Choice(options=counts), "temperature": Choice(options=(0.1, 0.03, 0.3, 1.0))}


METHOD = Method(
    name="few-shot",
    family="no training",
    summary="Shows labelled examples before each text; an encoder retrieves the nearest and lets them vote.",
    trains="nothing; some training rows are kept as text, or all N as a pool",
    serves="keys and values of the examples, run once; or a search among N vectors",
    place=place,
    space=space,
    kinds=("classify", "generate"),
)
