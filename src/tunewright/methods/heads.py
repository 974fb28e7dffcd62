"""Starting points that methods share: a head from the labels' words, token embeddings to start prompts from.

Shapes: D width, C labels, P virtual tokens, V vocabulary.
"""

from collections import Counter

import numpy as np
import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Head
from tunewright.backbones.answers import directions, unit
from tunewright.methods.base import Choice, Material
from tunewright.methods.label_words import trained_answer
from tunewright.methods.prompting import asking
from tunewright.prompts.template import PLAIN
from tunewright.prompts.verbalizer import TEMPLATES, label_phrases
from tunewright.runtime import torch_generator
from tunewright.training.optim import Rates
from tunewright.types import Example, Params

_START_SCALE = 10.0
"""Logits of a new head are about so many times the difference of cosines."""


def answering(material: Material, params: Params | None = None) -> dict[str, object]:
    """The parts that answer, for methods that train what stands before or inside the base.

    Args:
        material: Task and training rows.
        params: Whose `answer` says how labels are chosen: by a head, where it says nothing.
    """
    if material.task.kind == "generate":
        return asking(material, PLAIN)
    how = "head" if params is None else str(params.get("answer", "head"))
    return {"head": first_head(material)} if how == "head" else trained_answer(material, how)


def head_rates(adapter: Adapter, rate: float) -> Rates:
    """The rate of the head where there is one."""
    return {} if adapter.head is None else {"head.weight": rate, "head.bias": rate}


def inits(material: Material) -> Choice:
    """What virtual tokens may start from: the words of the labels, where there are labels, or common ones."""
    return Choice(options=("labels", "vocabulary") if material.task.names_labels else ("vocabulary",))


def first_head(material: Material) -> Head:
    """A head to start from: of what the labels mean, or of what tells right candidates from others."""
    return choosing_head(material) if material.task.kind == "choose" else described_head(material)


def choosing_head(material: Material) -> Head:
    """One row for all candidates of a row: the mean of what the right one's features have more than the mean of all.

    As long as the directions of a described head.
    """
    pairs_NCD = material.store(material.rows.encodings).unflatten(1, (material.num_labels, -1))
    right_ND = pairs_NCD[torch.arange(len(pairs_NCD)), material.rows.labels_N]
    direction_D = unit((right_ND - pairs_NCD.mean(1)).mean(0))
    weight_1D = direction_D[None] * (_START_SCALE / pairs_NCD.norm(dim=-1).mean())
    return Head(weight_CD=weight_1D, bias_C=torch.zeros(1))


def described_head(material: Material) -> Head:
    """A head that knows what the labels mean: it compares features with the directions of the labels' phrases.

    The part that all labels share is taken out, and each label's mean logit on the training rows is zero; where a row
    may have several labels, the log odds of the label's share. Labels whose words mean nothing to the base get nearly
    the same direction, and so nearly a head of zeros.
    """
    features_ND = material.store(material.rows.encodings)
    groups = label_phrases(material.task, "both", TEMPLATES["many"])
    directions_CD = directions(groups, lambda phrases: _phrase_features(material, phrases))
    centred_CD = directions_CD - directions_CD.mean(0)
    weight_CD = centred_CD * (_START_SCALE / features_ND.norm(dim=-1).mean())
    bias_C = -(features_ND @ weight_CD.T).mean(0)
    if material.rows.sets_NC is not None:
        bias_C = bias_C + material.shares().logit()
    return Head(weight_CD=weight_CD, bias_C=bias_C)


def _phrase_features(material: Material, phrases: tuple[str, ...]) -> Tensor:
    examples = [Example(id=phrase, text=phrase) for phrase in phrases]
    return material.store(material.backbone.encode(examples, material.max_tokens))


_REFERENCE_RMS = 0.02


def embedding_scale(material: Material) -> float:
    """Root mean square of the base's embeddings over that for which rates of prompts are meant, 0.02."""
    return float(material.weights.word_embeddings.square().mean().sqrt()) / _REFERENCE_RMS


_MEANT_WIDTH, _NARROWEST_WIDTH = 768, 128


def narrowness(material: Material) -> float:
    """What a decoder's rates are multiplied by where D is under 768: 768 / D, and its square where texts are written.

    Rates of what changes a base are meant for encoders, which start from good features, and for decoders of 100M
    parameters and more. By the width alone hidden weights ask for 768 / D (Yang et al. 2022, section 3). A small one
    that is to write knows little, and moves nearly as far as when it was trained: at 128 and 256 it learns best at
    rates nearer to the square, at which choosing labels breaks down (docs/log.md). Narrower than 128 counts as 128.
    """
    if not material.backbone.writes:
        return 1.0
    width = min(max(material.backbone.width, _NARROWEST_WIDTH), _MEANT_WIDTH)
    return (_MEANT_WIDTH / width) ** (2 if material.task.kind == "generate" else 1)


def start_vectors(material: Material, init: str, length: int, rng: np.random.Generator) -> Tensor:
    """Vectors to start virtual tokens from, fp32 [P, width of the embeddings].

    Args:
        material: Labels and training rows.
        init: `random`, noise of the size of the base's embeddings, which no method's space has; else as in `start_ids`.
        length: P.
        rng: Draws noise or tokens.
    """
    table = material.weights.word_embeddings
    if init == "random":
        return noise((length, table.shape[1]), float(table.square().mean().sqrt()), rng)
    return table[start_ids(material, init, length, rng)].clone()


def start_ids(material: Material, init: str, length: int, rng: np.random.Generator) -> list[int]:
    """Token ids to start virtual tokens from (Lester et al. 2021, section 3.2), repeated where too few.

    Args:
        material: Labels and training rows.
        init: `labels`, the words of the label descriptions; `vocabulary`, the training rows' common tokens;
            or any text.
        length: P.
        rng: Draws from the common tokens.
    """
    backbone = material.backbone
    if init == "vocabulary":
        return _common_ids(material, length, rng)
    labels = " ".join(material.task.descriptions.values())
    ids = list(dict.fromkeys(backbone.token_ids(labels))) if init == "labels" else backbone.token_ids(init)
    if not ids:
        return _common_ids(material, length, rng)
    if init == "labels" and len(ids) < length:
        ids += _common_ids(material, length - len(ids), rng)
    return [ids[k % len(ids)] for k in range(length)]


_COMMON = 1000


def _common_ids(material: Material, length: int, rng: np.random.Generator) -> list[int]:
    """Drawn from the most common tokens of the training rows, special tokens left out."""
    counts = Counter(i for e in material.rows.encodings for i in e.ids)
    special = material.weights.special_ids()
    common = [i for i, _ in counts.most_common(_COMMON) if i not in special]
    if not common:
        common = sorted(special)
    return [common[k] for k in rng.integers(len(common), size=length)]


def lengths(wanted: tuple[int, ...], material: Material) -> Choice:
    """The lengths that leave half of the longest input to the text; that half where all are longer."""
    half = material.room_tokens // 2
    fitting = tuple(length for length in wanted if length <= half)
    return Choice(options=fitting or (half,))


def noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Tensor:
    """Normal noise, fp32."""
    return torch.randn(shape, generator=torch_generator(rng)) * scale
