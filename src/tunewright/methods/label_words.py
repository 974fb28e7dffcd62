"""What stands for a label under a prompt: its own words, words that training rows tell, or vectors.

Shapes: N rows, W words, C labels, D width of the features.
"""

from collections import Counter

import torch

from tunewright.adapters.parts import Head, Template, Verbalizer
from tunewright.backbones.inference import readings, word_scores
from tunewright.methods.base import Choice, Material, cannot_tell_words
from tunewright.methods.prompting import asking, prompts, templates
from tunewright.prompts.template import Prompt
from tunewright.prompts.tf_idf import words as words_in
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases, most_telling, nearest_centre

_ASKED = 200
"""Training rows that tell words."""

_CANDIDATES, _LETTERS = 1000, 2
"""Words among which they choose, the most common of the training rows, and letters of the shortest."""

_COUNT = 3
"""Words of a label."""

AUTOMATIC, PROTOTYPES = "automatic", "prototypes"
"""Words by what training rows say of them; no words, but the mean features of each label's rows."""

_FEW = 0.125
"""Share of the context that words may take beside what is learned."""


def by_words(material: Material, prompt: Prompt, words: str) -> dict[str, object]:
    """The parts of an adapter that answers under a prompt.

    Args:
        material: Task and training rows.
        prompt: The prompt.
        words: `automatic`, `prototypes`, or as in `label_phrases`.
    """
    if words == PROTOTYPES:
        template = Template.of(prompt)
        return {"template": template, "head": prototypes(material, template)}
    parts = asking(material, prompt, "name" if words == AUTOMATIC else words)
    if words == AUTOMATIC:
        parts["verbalizer"] = Verbalizer(phrases=_told(material, prompt), scale=1.0)
    return parts


def prototypes(material: Material, template: Template) -> Head:
    """The mean features of each label's rows under a template."""
    adapter = material.adapter(template=template)
    encodings = material.backbone.encode_for(material.examples, adapter)
    features_ND = readings(adapter, encodings, material.store)
    weight_CD, bias_C = nearest_centre(features_ND, material.rows.labels_N, material.num_labels)
    return Head(weight_CD=weight_CD, bias_C=bias_C)


def _told(material: Material, prompt: Prompt) -> tuple[tuple[str, ...], ...]:
    """For each label the words that tell it best; its name where none does."""
    backbone, names = material.backbone, label_phrases(material.task, "name", TEMPLATES["bare"])
    taken = {backbone.encode_answer(name, after=prompt.row) for (name,) in names}
    counts = Counter(word for example in material.examples for word in words_in(example.text) if word.isalpha())
    known = [(word, backbone.encode_answer(word, after=prompt.row)) for word, _ in counts.most_common()]
    single = [(w, ids) for w, ids in known if len(ids) == 1 and len(w) >= _LETTERS and ids not in taken]
    found = dict(reversed([(ids, w) for w, ids in single[:_CANDIDATES]]))  # of two forms of one token the commoner
    if not found:
        return names
    adapter = material.adapter(template=Template.of(prompt))
    some = material.part(range(min(_ASKED, len(material.examples))))
    encodings = backbone.encode_for(some.examples, adapter)
    log_probs_NW = word_scores(adapter, encodings, list(found), material.store)
    told = most_telling(log_probs_NW, some.rows.labels_N, material.num_labels, _COUNT)
    words = list(found.values())
    return tuple(tuple(words[w] for w in mine) or name for mine, name in zip(told, names, strict=True))


def soft(material: Material, prompt: Prompt) -> dict[str, object]:
    """Vectors for the labels, to be trained, that start as those of their words (Hambardzumyan et al. 2021, section 3).

    They are compared with what the base compares words with, so that a label of one token starts with its word's logit.
    """
    backbone = material.weights
    names = label_phrases(material.task, "name", TEMPLATES["bare"])
    rows = [backbone.word_rows(backbone.encode_answer(name, after=prompt.row)) for (name,) in names]
    head = Head(
        weight_CD=torch.stack([weight_KD.mean(0) for weight_KD, _ in rows]),
        bias_C=torch.stack([bias_K.mean() for _, bias_K in rows]),
    )
    return {"template": Template.of(prompt), "head": head}


def trained_answer(material: Material, how: str) -> dict[str, object]:
    """The parts that answer under the first of the templates: `words` or `soft`."""
    prompt = prompts(material)[str(templates(material).default)]
    return soft(material, prompt) if how == "soft" else asking(material, prompt)


def answer_choices(material: Material) -> dict[str, Choice]:
    """How a trained method answers, for a space: by a head, or where the base and the labels allow it by words."""
    base, task = material.backbone, material.task
    if task.kind != "classify" or not base.answers_prompts or cannot_tell_words(base, task, share=_FEW) is not None:
        return {}
    soft_too = ("soft",) if base.shows_words else ()
    return {"answer": Choice(options=("head", "words", *soft_too))}
