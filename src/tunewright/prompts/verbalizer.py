"""From labels to phrases: a label's words, each in each template; words and directions that training rows tell.

Shapes: N rows, W words, C labels, D width.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from tunewright.data.labels import in_words
from tunewright.types import Task

TEMPLATES: dict[str, tuple[str, ...]] = {
    "many": (
        "{label}",
        "It was {label}.",
        "This text is about {label}.",
        "This is an example of {label}.",
        "The topic is {label}.",
    ),
    "about": ("This text is about {label}.",),
    "opinion": ("It was {label}.", "A {label} review.", "I found it {label}."),
    "feeling": ("I feel {label}.", "The tone is {label}."),
    "is": ("It is {label}.", "This is {label}."),
    "message": ("The message is a {label}.", "This is a {label} message."),
    "question": ("The question asks for {label}.",),
    "bare": ("{label}",),
}
"""Sets of templates for a label's words."""


def label_phrases(task: Task, words: str, templates: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """For each label, each of its words in each template.

    Args:
        task: Labels and descriptions; a semicolon separates several words for a label.
        words: `name`, `description` or `both`.
        templates: With `{label}`.
    """
    groups = []
    for label in task.labels:
        name = in_words(label)
        described = tuple(word.strip() for word in task.descriptions[label].split(";") if word.strip())
        chosen = {"name": (name,), "description": described, "both": (name, *described)}[words]
        groups.append(tuple(dict.fromkeys(t.format(label=word) for word in chosen for t in templates)))
    return tuple(groups)


def word_fault(
    task: Task, words: str, ids_of: Callable[[str], Sequence[int]], unknown_ids: Collection[int], most_tokens: int
) -> str | None:
    """Why a model cannot answer a task by the labels' words, or None.

    Args:
        task: Labels and descriptions.
        words: As in `label_phrases`.
        ids_of: A word as the model's tokens.
        unknown_ids: Tokens for what a tokenizer does not know.
        most_tokens: Of a word.
    """
    owner: dict[tuple[int, ...], str] = {}
    todo = "rename a label in the data" if words == "name" else "change the descriptions (--descriptions)"
    for label, mine in zip(task.labels, label_phrases(task, words, TEMPLATES["bare"]), strict=True):
        for word in mine:
            ids = tuple(ids_of(word))
            if not ids or set(ids) & set(unknown_ids):
                return f"the vocabulary lacks the word {word!r} of label {label!r}; {todo}"
            if len(ids) > most_tokens:
                return f"{word!r} of label {label!r} is {len(ids)} tokens; at most {most_tokens} have room; {todo}"
            if owner.setdefault(ids, label) != label:
                return f"labels {owner[ids]!r} and {label!r} have the same words: {word!r}; {todo}"
    return None


def most_telling(log_probs_NW: Tensor, labels_N: Tensor, num_labels: int, count: int) -> list[list[int]]:
    """For each label the words that tell it best from the others, best first, no word for two labels.

    A word's merit for a label is how much its mean log-odds on the label's rows exceed those on the other rows: the
    normalised likelihood ratio of Schick, Schmid and Schuetze 2020, section 3.

    Args:
        log_probs_NW: Of each word as the answer to each row.
        labels_N: Label indices.
        num_labels: C.
        count: Words of a label, at most; none for a label without rows, or of which all rows are.
    """
    odds_NW = log_probs_NW - torch.log1p(-log_probs_NW.exp().clamp(max=1 - 1e-6))
    merits_CW = torch.full((num_labels, log_probs_NW.shape[1]), -torch.inf)
    for label in range(num_labels):
        mine_N = labels_N == label
        if 0 < int(mine_N.sum()) < len(labels_N):
            merits_CW[label] = odds_NW[mine_N].mean(0) - odds_NW[~mine_N].mean(0)
    owner_W, found = merits_CW.argmax(0), []
    for label in range(num_labels):
        order = merits_CW[label].sort(descending=True, stable=True).indices.tolist()
        found.append([w for w in order if owner_W[w] == label and merits_CW[label, w] > 0][:count])
    return found


def nearest_centre(features_ND: Tensor, labels_N: Tensor, num_labels: int) -> tuple[Tensor, Tensor]:
    """Weights [C, D] and biases [C] of the classifier by the nearest class mean (Snell et al. 2017, equation 8).

    Logits are minus the squared distance over twice its mean to the rows' own centres, up to what labels share. A label
    without rows has the mean of all.
    """
    every_D = features_ND.mean(0)
    counts_C = torch.bincount(labels_N, minlength=num_labels)
    sums_CD = torch.zeros(num_labels, features_ND.shape[1]).index_add(0, labels_N, features_ND - every_D)
    centres_CD = sums_CD / counts_C.clamp(min=1)[:, None]
    spread = (features_ND - every_D - centres_CD[labels_N]).square().sum(1).mean().clamp(min=1e-6)
    weight_CD = centres_CD / spread
    return weight_CD, -centres_CD.square().sum(1) / (2 * spread) - weight_CD @ every_D
