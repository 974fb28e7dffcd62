"""Starting points that several methods share: a head fitted on the bare features, and token embeddings worth starting from.

Shapes: N rows, D width, C labels, P virtual tokens.
"""

from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from tunewright.adapters.parts import Head
from tunewright.methods.base import Material
from tunewright.runtime import torch_generator

_FIT_STEPS = 100
_FIT_DECAY = 1e-2


def probed_head(material: Material) -> Head:
    """The linear classifier that fits the bare features best: where tuning starts (Kumar et al. 2022, section 3.4, LP-FT).

    Regularised multinomial regression on standardised features, by L-BFGS; deterministic.
    """
    features_ND = material.store(material.rows.encodings)
    mean_D, scale = features_ND.mean(0), features_ND.std() + 1e-6
    inputs_ND = (features_ND - mean_D) / scale
    weight_CD = torch.zeros(material.num_labels, inputs_ND.shape[1], requires_grad=True)
    bias_C = torch.zeros(material.num_labels, requires_grad=True)
    solver = torch.optim.LBFGS([weight_CD, bias_C], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")
    labels_N = material.rows.labels_N

    def loss() -> Tensor:
        solver.zero_grad()
        fit = nn.functional.cross_entropy(inputs_ND @ weight_CD.T + bias_C, labels_N)
        value = fit + _FIT_DECAY * weight_CD.square().sum() / 2
        value.backward()
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    own_CD = weight_CD.detach() / scale
    return Head(weight_CD=own_CD, bias_C=bias_C.detach() - own_CD @ mean_D)


def empty_head(material: Material) -> Head:
    """A head of zeros: every label equally likely."""
    width, num_labels = material.backbone.width, material.num_labels
    return Head(weight_CD=torch.zeros(num_labels, width), bias_C=torch.zeros(num_labels))


def word_embeddings(material: Material) -> Tensor:
    """The base's word embeddings, fp32 [V, D]."""
    return material.backbone.masters()[material.backbone.vocabulary_name]


def start_ids(material: Material, init: str, length: int, rng: np.random.Generator) -> list[int]:
    """Token ids to start virtual tokens from (Lester et al. 2021, section 3.2); as many as asked, repeated where too few.

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
    text = " ".join(material.task.descriptions.values()) if init == "labels" else init
    ids = list(dict.fromkeys(backbone.token_ids(text)))
    if not ids:
        return _common_ids(material, length, rng)
    if init == "labels" and len(ids) < length:
        ids += _common_ids(material, length - len(ids), rng)
    return [ids[k % len(ids)] for k in range(length)]


_COMMON = 1000


def _common_ids(material: Material, length: int, rng: np.random.Generator) -> list[int]:
    """Drawn from the most common tokens of the training rows, special tokens left out."""
    counts = Counter(i for e in material.rows.encodings for i in e.ids)
    special = material.backbone.special_ids()
    common = [i for i, _ in counts.most_common(_COMMON) if i not in special]
    return [common[k] for k in rng.integers(len(common), size=length)]


def noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> Tensor:
    """Normal noise, fp32."""
    return torch.randn(shape, generator=torch_generator(rng)) * scale
