"""What a step lowers and an epoch is judged by: the right label of each row, or the tokens of its target.

Shapes: N rows, D width, C labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tunewright.adapters.adapter import BODY_PARTS, Adapter
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.inference import FeatureStore, answer_losses, generate_texts, predict, readings, writer
from tunewright.training.loss import LossSum, balanced_weights, binary_cross_entropy, cross_entropy
from tunewright.types import DevScore


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tokenised rows with what is right for them."""

    encodings: Sequence[Encoding]
    labels_N: Tensor
    """Label indices; empty where texts are written."""
    answers: Sequence[tuple[int, ...]] = ()
    """Tokens of each target; empty where labels are chosen."""
    sets_NC: Tensor | None = None
    """1 for each label of a row, else 0, where a row may have several; the label indices are then empty."""

    def loss(self, logits_BC: Tensor, members: Sequence[int], weights_C: Tensor | None = None) -> LossSum:
        """Cross entropy in nats of some rows.

        Args:
            logits_BC: Of these rows.
            members: Their indices.
            weights_C: Of the classes.
        """
        if self.sets_NC is not None:
            return binary_cross_entropy(logits_BC, self.sets_NC[list(members)])
        return cross_entropy(logits_BC, self.labels_N[list(members)], weights_C)


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What an epoch is judged by: the dev rows and the task's metric."""

    rows: Rows
    score: Callable[[Tensor, Tensor], float]
    """(logits [N, C], labels [N]) -> the metric."""


@dataclass(frozen=True, kw_only=True)
class TextExam:
    """The same where texts are written."""

    rows: Rows
    score: Callable[[Sequence[str]], float]
    """Texts -> the metric."""


class Objective(Protocol):
    """Of one training; reads the live tensors."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each training row, virtual ones included."""
        ...

    def start_epoch(self, trained: Sequence[str]) -> None:
        """Names the tensors that train from here on."""

    def count(self, batch: Sequence[int]) -> float:
        """What the summed loss of a whole step is divided by."""
        ...

    def loss(self, part: Sequence[int]) -> Tensor:
        """Summed over some rows of a step, in nats; gradients flow."""
        ...

    def examine(self, epoch: int) -> tuple[DevScore, Tensor | None]:
        """How the live tensors do on dev, and their logits where there are any."""
        ...


def evaluate(adapter: Adapter, exam: Exam, store: FeatureStore) -> tuple[DevScore, Tensor]:
    """The score of an adapter that does not train, as epoch 0, and its logits."""
    return _scored(predict(adapter, exam.rows.encodings, store), exam, epoch=0)


def evaluate_texts(adapter: Adapter, exam: TextExam, store: FeatureStore, *, epoch: int = 0) -> DevScore:
    """The score of what an adapter writes; its loss is the mean over the tokens of the targets."""
    value = exam.score(generate_texts(adapter, exam.rows.encodings, store))
    if not store.backbone.is_here:
        return DevScore(epoch=epoch, value=value, loss=0.0)
    losses = answer_losses(adapter, exam.rows.encodings, exam.rows.answers, store)
    return DevScore(epoch=epoch, value=value, loss=sum(losses) / sum(map(len, exam.rows.answers)))


def _scored(logits_NC: Tensor, exam: Exam, *, epoch: int) -> tuple[DevScore, Tensor]:
    loss = exam.rows.loss(logits_NC, range(len(logits_NC)))
    value = exam.score(logits_NC, exam.rows.labels_N)
    return DevScore(epoch=epoch, value=value, loss=float(loss.total) / loss.count), logits_NC


class _Features:
    """Features of fixed inputs under the live adapter, computed again only after its body has changed."""

    def __init__(self, adapter: Adapter, encodings: Sequence[Encoding], store: FeatureStore) -> None:
        self._adapter, self._encodings, self._store = adapter, encodings, store
        self._found: Tensor | None = None

    def __call__(self, *, changed: bool) -> Tensor:
        if self._found is None or changed:
            self._found = readings(self._adapter, self._encodings, self._store)
        return self._found


class Labelling:
    """Cross entropy of the labels, or of a row's own candidates, from features while the body stands still.

    Args:
        adapter: Live.
        rows: To train on.
        exam: To be judged by.
        store: The base, with the features of its bare form.
        dropout: Before the head.
        balanced: Whether classes are weighted so that each counts the same.
    """

    def __init__(
        self, adapter: Adapter, rows: Rows, exam: Exam, store: FeatureStore, dropout: Dropout, *, balanced: bool
    ) -> None:
        self.lengths = [len(e.ids) + max(1, len(e.members)) * adapter.prefix_tokens for e in rows.encodings]
        self._adapter, self._rows, self._exam, self._store, self._dropout = adapter, rows, exam, store, dropout
        self._weights_C = balanced_weights(rows.labels_N, len(adapter.labels)) if balanced else None
        self._frozen_features = _Features(adapter, rows.encodings, store)
        self._dev_features = _Features(adapter, exam.rows.encodings, store)
        self._body_moves = self._body_moved = False
        self._features_ND: Tensor | None = None

    def start_epoch(self, trained: Sequence[str]) -> None:
        """Names the tensors that train from here on."""
        self._body_moves = any(name.split(".")[0] in BODY_PARTS for name in trained)
        self._features_ND = None if self._body_moves else self._frozen_features(changed=self._body_moved)
        self._body_moved = self._body_moves

    def count(self, batch: Sequence[int]) -> float:
        """Rows, or the weights of their classes."""
        if self._weights_C is None:
            return float(len(batch))
        return float(self._weights_C[self._rows.labels_N[list(batch)]].sum())

    def loss(self, part: Sequence[int]) -> Tensor:
        """Cross entropy in nats."""
        return self._rows.loss(self._logits(part).cpu(), part, self._weights_C).total

    def _logits(self, part: Sequence[int]) -> Tensor:
        backbone = self._store.backbone
        if self._features_ND is not None:
            return backbone.answer(self._adapter, self._features_ND[list(part)], self._dropout)
        rows = [Row(encoding=self._rows.encodings[k], adapter=self._adapter) for k in part]
        return backbone.answer(self._adapter, torch.stack(backbone.readings(rows)), self._dropout)

    def examine(self, epoch: int) -> tuple[DevScore, Tensor | None]:
        """The metric, and the logits it is made from."""
        found = self._dev_features(changed=self._body_moves)
        with torch.no_grad():
            logits_NC = self._store.backbone.answer(self._adapter, found).float().cpu()
        return _scored(logits_NC, self._exam, epoch=epoch)


class Writing:
    """Cross entropy of the tokens of the targets, judged by what is then written.

    Args:
        adapter: Live.
        rows: To train on.
        exam: To be judged by.
        store: The base.
    """

    def __init__(self, adapter: Adapter, rows: Rows, exam: TextExam, store: FeatureStore) -> None:
        tokens = zip(rows.encodings, rows.answers, strict=True)
        self.lengths = [len(e.ids) + len(answer) + adapter.prefix_tokens for e, answer in tokens]
        self._adapter, self._rows, self._exam, self._store = adapter, rows, exam, store

    def start_epoch(self, trained: Sequence[str]) -> None:
        """Nothing is kept from one epoch to the next."""

    def count(self, batch: Sequence[int]) -> float:
        """Tokens of the targets."""
        return float(sum(len(self._rows.answers[k]) for k in batch))

    def loss(self, part: Sequence[int]) -> Tensor:
        """Cross entropy in nats."""
        rows = [Row(encoding=self._rows.encodings[k], adapter=self._adapter) for k in part]
        log_probs = writer(self._store.backbone).answer_log_probs(rows, [self._rows.answers[k] for k in part])
        return -torch.cat(log_probs).sum()

    def examine(self, epoch: int) -> tuple[DevScore, Tensor | None]:
        """The metric of what is written; the loss tells equal ones apart."""
        return evaluate_texts(self._adapter, self._exam, self._store, epoch=epoch), None


def objective(
    adapter: Adapter, rows: Rows, exam: Exam | TextExam, store: FeatureStore, dropout: Dropout, *, balanced: bool
) -> Objective:
    """What this exam asks to be trained for."""
    if isinstance(exam, TextExam):
        return Writing(adapter, rows, exam, store)
    return Labelling(adapter, rows, exam, store, dropout, balanced=balanced)
