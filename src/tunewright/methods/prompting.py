"""What methods place so that a decoder answers under a prompt, by labels' words or in text, and what they show it.

Shapes: C labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, Decoding, Template, Verbalizer
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.answers import unit
from tunewright.backbones.base import Base, Encoding
from tunewright.backbones.inference import predict
from tunewright.data.chats import NAME, spoken
from tunewright.data.labels import in_words
from tunewright.data.sets import strata
from tunewright.methods.base import Choice, Material
from tunewright.prompts.calibration import content_free_points, domain_points, zero_points
from tunewright.prompts.template import (
    MASK,
    Prompt,
    built_in,
    demonstration,
    draw,
    one_mask,
    premise,
    sources,
    until_mask,
    with_demonstrations,
    with_mask,
)
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.types import Example, Params, chosen_text, whole_text

_USUAL = 0.99
"""Share of the training targets that fit in what may be written."""

_FEW = 0.25
"""Share of the context that a prompt's own words may take, where others take less."""

OWN = "yours"
"""Name of the user's prompt among the templates."""

_SHOWN = 0.5
"""Share of what targets leave of the context that a prompt with its demonstrations may take."""

_ASKED = 200
"""Training rows that are scored under a template to set zero points: there is no store of what they came to."""

RETRIEVED = ("nearest", "bm25")
"""Ways to choose demonstrations for each row."""


def retrievals(material: Material) -> tuple[str, ...]:
    """Those that a base has: one that shows no features finds nothing near, nor do pairs with candidates."""
    return RETRIEVED if material.backbone.width > 0 and material.task.kind != "choose" else ("bm25",)


NOTHING_SAID = ("N/A", "", "[MASK]")
"""Texts without content, by which contextual calibration asks what a prompt says by itself (Zhao et al. 2021, 5)."""


def asking(material: Material, prompt: Prompt, words: str = "name") -> dict[str, object]:
    """The parts of an adapter that answers under a prompt: by words of labels, the row's own candidates, or in text.

    Args:
        material: Task and training rows.
        prompt: The prompt.
        words: Of the labels, as in `label_phrases`.
    """
    template = Template.of(prompt)
    if material.task.kind == "generate":
        return {"template": template, "decoding": decoding(material)}
    if material.task.kind == "choose":
        return {"template": template}
    phrases = label_phrases(material.task, words, TEMPLATES["bare"])
    return {"template": template, "verbalizer": Verbalizer(phrases=phrases, scale=1.0)}


def decoding(material: Material) -> Decoding:
    """Greedy, as long as training targets are; a line ends the text where no training target has several."""
    lengths = [len(ids) for ids in material.rows.answers]
    has_lines = any("\n" in str(example.target) for example in material.examples)
    most = max(1, math.ceil(float(np.quantile(lengths, _USUAL))))
    return Decoding(max_new_tokens=most, stop=() if has_lines else ("\n",))


def calibrated(adapter: Adapter, material: Material, params: Params) -> Adapter:
    """With zero points, unless none are asked for; an adapter that writes has none."""
    how = params.get("calibration", "none")
    if how == "none":
        return adapter
    if how == "contextual":
        said_KC = predict(adapter, _empty(material, adapter, NOTHING_SAID), material.store)
        # Where each label has a probability of its own, there is none to be shared out.
        apart = material.rows.sets_NC is not None
        bias_C = domain_points(said_KC.mean(0)) if apart else content_free_points(said_KC)
    elif how == "pmi":
        assert adapter.template is not None, "of prompts alone"
        bare = replace(adapter, template=Template.of(premise(adapter.template)), retriever=None)
        bias_C = domain_points(predict(bare, _empty(material, bare, [""]), material.store)[0])
    else:
        encodings = material.rows.encodings
        if adapter.template is not None:
            encodings = material.backbone.encode_for(material.examples[:_ASKED], adapter)
        logits_NC, shares_C = predict(adapter, encodings, material.store), material.shares()
        if how == "uniform":
            shares_C = shares_C.mean().expand_as(shares_C)
        bias_C = zero_points(logits_NC, shares_C, apart=material.rows.sets_NC is not None)
    return replace(adapter, calibration=Calibration(bias_C=bias_C))


def _empty(material: Material, adapter: Adapter, texts: Sequence[str]) -> list[Encoding]:
    """Inputs without content, in the form of the training rows."""
    about = {NAME: bool(material.examples[0].messages)}
    rows = [Example(id=text, text=text, fields=dict.fromkeys(adapter.columns, text)) for text in texts]
    return material.backbone.encode_for([spoken(row, about) for row in rows], adapter)


def cannot_be_asked(backbone: Base) -> str | None:
    """Why a base cannot answer under a prompt, or None."""
    if backbone.answers_prompts:
        return None
    return f"{backbone.identity.name} answers no prompts; give a decoder or a masked model with --model"


def fitted(prompt: Prompt, backbone: Base) -> Prompt:
    """The user's prompt as a base takes it; as it is for one that answers no prompts.

    Raises:
        ConfigError: As in `for_model`.
    """
    if not backbone.answers_prompts:
        return prompt
    return for_model(prompt, backbone.identity.name, fills_masks=backbone.fills_masks)


def for_model(prompt: Prompt, model: str, *, fills_masks: bool) -> Prompt:
    """The user's prompt as a model that answers prompts takes it: with a mask to fill, or up to there.

    Raises:
        ConfigError: It has no mask for one that fills masks, or words after it for one that goes on.
    """
    return (one_mask if fills_masks else until_mask)(prompt, model)


def prompts(material: Material) -> dict[str, Prompt]:
    """The user's own prompt, where there is one, and the built-in ones, by name."""
    found = built_in(material.task)
    if material.backbone.fills_masks:
        found = {name: with_mask(prompt) for name, prompt in found.items()}
    return {**({} if material.prompt is None else {OWN: material.prompt}), **found}


def templates(material: Material) -> Choice:
    """The prompts whose own words leave most of the context free, for a space; the first where none does."""
    found = prompts(material)
    if not material.backbone.is_here:  # who answers freely has to be told the labels
        listed = sources(material.task.kind)
        names = material.task.names_labels
        found = {name: p for name, p in found.items() if name == OWN or not names or "{labels}" in listed[name]}
    fitting = tuple(name for name, prompt in found.items() if fits(material, prompt))
    return Choice(options=fitting or tuple(found)[:1])


def fits(material: Material, prompt: Prompt) -> bool:
    """Whether a prompt's own words leave most of the context free."""
    return num_tokens(material, prompt) <= _FEW * material.context_tokens


def num_tokens(material: Material, prompt: Prompt) -> int:
    """Tokens of a prompt without a row."""
    return sum(len(material.backbone.token_ids(part)) for part in (prompt.fixed, prompt.row))


def calibrations(material: Material, *hows: str) -> dict[str, Choice]:
    """Ways to set zero points, for a space; none where texts are written, or candidates are each row's own."""
    if not material.task.names_labels:
        return {}
    # A label that was read has no probability for a zero point to move.
    return {"calibration": Choice(options=hows if material.backbone.tells_scores else ("none",))}


def shown(
    material: Material,
    prompt: Prompt,
    count: int,
    rng: np.random.Generator,
    *,
    stratified: bool = False,
    taken_tokens: int = 0,
    show: Callable[[Prompt, Example], str] | None = None,
) -> tuple[Prompt, list[Example]]:
    """The prompt with training rows of different texts as demonstrations, as many as fit, and these rows.

    Args:
        material: Training rows.
        prompt: Around each of them.
        count: At most.
        rng: Draws them and their order.
        stratified: Whether labels take turns.
        taken_tokens: Of the context, by what else stands before the row or follows it.
        show: A row as a demonstration; with its answer alone when absent.
    """
    show = demonstrated if show is None else show
    groups = material.rows.labels_N.tolist() if stratified else [0] * len(material.examples)
    room = _SHOWN * (material.context_tokens - taken_tokens) - num_tokens(material, prompt)
    chosen: dict[str, Example] = {}
    for k in draw(groups, rng, stratified=stratified):
        if len(chosen) == count:
            break
        example = material.examples[k]
        size = len(material.backbone.token_ids(show(prompt, example)))
        if size <= room and whole_text(example) not in chosen:
            chosen[whole_text(example)] = example
            room -= size
    rows = [list(chosen.values())[int(k)] for k in rng.permutation(len(chosen))]
    return with_demonstrations(prompt, (show(prompt, row) for row in rows)), rows


def retrieving(material: Material, prompt: Prompt, count: int, by: str) -> Retriever:
    """All training rows as demonstrations, of which each row is shown its nearest.

    Args:
        material: Training rows.
        prompt: Around each of them.
        count: Shown to a row, at most.
        by: `nearest`, by the bare base's features, or `bm25`.
    """
    return Retriever(
        texts=tuple(whole_text(example) for example in material.examples),
        shown=tuple(demonstrated(prompt, example) for example in material.examples),
        num_shown=count,
        vectors_ND=unit(material.store(material.rows.encodings)) if by == "nearest" else None,
    ).moved(material.vector_store)


def demonstrated(prompt: Prompt, example: Example) -> str:
    """A training row with its answer, as a demonstration."""
    words = [chosen_text(example, label) if example.choices else in_words(label) for label in strata(example)]
    answer = ", ".join(words) if example.target is None else example.target
    if MASK in prompt.row:
        return f"{prompt.show(example, answer)}\n\n"
    return demonstration(prompt.show(example), answer)
