"""The loop: the same for every method. A method only says which tensors train, and when.

Shapes: N rows, B rows of a step, D width, C labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunewright.adapters.adapter import BODY_PARTS, Adapter
from tunewright.backbones.base import Dropout, Encoding, Row
from tunewright.backbones.inference import FeatureStore, predict, readings
from tunewright.errors import OutOfMemory
from tunewright.runtime import is_out_of_memory, torch_generator
from tunewright.training.batching import epoch_batches, micro_batches
from tunewright.training.loss import balanced_weights, cross_entropy
from tunewright.training.optim import Optimizer, Rates
from tunewright.training.state import State, copied, random_state
from tunewright.training.stopping import Best
from tunewright.types import DevScore

Schedule = Callable[[float], Rates]
"""Progress in [0, 1) -> who trains and how fast; see `optim.Rates`."""

Observe = Callable[[float, DevScore | None], str | None]
"""Called after each step (epochs done, None) and each epoch (epochs done, score); an answer is the reason to stop."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. Learning rate and epochs belong to the method's search space; the rest are shared defaults."""

    lr: float
    """Peak learning rate; a method's rates are factors on it."""
    epochs: int
    batch_size: int = 16
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of all steps."""
    dropout: float = 0.1
    """Share of values zeroed before the head. The base never drops: rows share its prefix."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    patience: int = 4
    """Epochs without improvement on dev before stopping."""
    balanced: bool = False
    """Weight classes so that each counts the same."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Tokenised rows with their label indices."""

    encodings: Sequence[Encoding]
    labels_N: Tensor


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it."""

    adapter: Adapter
    """The best epoch's; the start where nothing trains."""
    scores: tuple[DevScore, ...]
    best: DevScore | None
    """None where training broke before the first dev pass."""
    stopped: str
    """Why it ended: `finished`, `no better for N epochs`, `diverged at step N`, or what the observer said."""
    num_tokens: int
    """Tokens trained on, virtual ones included, padding not."""
    micro_batches: int
    """Pieces each step was cut into for want of memory."""
    dev_logits_NC: Tensor | None = None
    """That adapter's answers to the exam."""
    state: State | None = None
    """After the last whole epoch, where it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """What an epoch is judged by: the dev rows and the task's metric."""

    rows: Rows
    score: Callable[[Tensor, Tensor], float]
    """(logits [N, C], labels [N]) -> the metric."""


def evaluate(adapter: Adapter, exam: Exam, store: FeatureStore) -> tuple[DevScore, Tensor]:
    """The score of an adapter that does not train, as epoch 0, and its logits."""
    return _scored(predict(adapter, exam.rows.encodings, store), exam, epoch=0)


def train(  # noqa: PLR0913
    adapter: Adapter,
    schedule: Schedule,
    settings: Settings,
    rows: Rows,
    exam: Exam,
    *,
    store: FeatureStore,
    rng: np.random.Generator,
    observe: Observe,
    state: State | None = None,
    keeps_state: bool = False,
) -> Trained:
    """Trains the tensors that the schedule names and keeps the best epoch.

    Args:
        adapter: The start.
        schedule: Which of its tensors train at which progress.
        settings: How.
        rows: To train on.
        exam: To choose the epoch by.
        store: The base, with the features of its bare form.
        rng: Shuffling and dropout.
        observe: Hears of every step and epoch and may stop.
        state: To go on from; of the same tensors. With the settings and rows it was saved under, the epochs that
            follow are those of a training that never stopped.
        keeps_state: Whether to return where it stands.

    Raises:
        OutOfMemory: Not even one row fits.
    """
    rates = [schedule(epoch / settings.epochs) for epoch in range(settings.epochs)]
    leaves = _leaves(adapter, rates)
    optimizer = Optimizer(
        leaves,
        rates,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
        num_steps=settings.epochs * math.ceil(len(rows.encodings) / settings.batch_size),
        clip=settings.clip,
    )
    run = _Run(adapter.with_tensors(leaves), settings, rows, store, torch_generator(rng))
    dev_features = _Features(run.adapter, exam.rows.encodings, store)
    best, stop = Best(patience=settings.patience), None
    first = 0 if state is None else _restore(state, leaves, optimizer, best, run, rng)
    for epoch in range(first, settings.epochs):
        trains_body = run.start_epoch(optimizer.start_epoch(epoch))
        stop = run.epoch(epoch, optimizer, rng, observe)
        if stop is None:
            found = dev_features(changed=trains_body)
            score, logits_NC = _score(run.adapter, found, exam, store, epoch=epoch + 1)
            if not math.isfinite(score.loss):
                stop = f"diverged in epoch {epoch + 1}: the loss on dev is not finite"
                break
            best.offer(score, leaves, logits_NC)
            state = _state(epoch + 1, leaves, optimizer, best, run, rng) if keeps_state else None
            stop = observe(epoch + 1.0, score)
        if stop is None and best.exhausted(epoch + 1):
            stop = f"no better for {settings.patience} epochs"
        if stop is not None:
            break
    return Trained(
        adapter=adapter.with_tensors(best.tensors).settled(),
        scores=tuple(best.scores),
        best=best.score,
        stopped="finished" if stop is None else stop,
        num_tokens=run.num_tokens,
        micro_batches=run.num_parts,
        dev_logits_NC=best.logits_NC,
        state=state if keeps_state else None,
    )


def _state(
    epoch: int,
    leaves: Mapping[str, Tensor],
    optimizer: Optimizer,
    best: Best,
    run: "_Run",
    rng: np.random.Generator,
) -> State:
    return State(
        epoch=epoch,
        num_steps=optimizer.num_steps,
        num_tokens=run.num_tokens,
        leaves=copied(leaves),
        moments=optimizer.moments(),
        best=best.tensors,
        best_logits_NC=best.logits_NC,
        best_score=best.score,
        scores=tuple(best.scores),
        shuffling=random_state(rng),
        dropout=run.dropout.generator.get_state(),
    )


def _restore(
    state: State,
    leaves: Mapping[str, Tensor],
    optimizer: Optimizer,
    best: Best,
    run: "_Run",
    rng: np.random.Generator,
) -> int:
    """Puts everything where it was; returns the epochs that are done."""
    assert state.fits(leaves), "a state of other tensors"
    with torch.no_grad():
        for name, tensor in leaves.items():
            tensor.copy_(state.leaves[name])
    optimizer.restore(state.moments, state.num_steps)
    best.score, best.tensors, best.logits_NC = state.best_score, dict(state.best), state.best_logits_NC
    best.scores, run.num_tokens = list(state.scores), state.num_tokens
    if state.shuffling is not None and state.dropout is not None:
        rng.bit_generator.state = state.shuffling
        run.dropout.generator.set_state(state.dropout)
    return state.epoch


def _leaves(adapter: Adapter, rates: Sequence[Rates]) -> dict[str, Tensor]:
    """fp32 copies of the tensors that train at some time."""
    tensors = adapter.tensors()
    names = {name for rate in rates for name in rate}
    assert names <= set(tensors), f"not tensors of the adapter: {sorted(names - set(tensors))}"
    return {name: tensors[name].detach().clone().float() for name in tensors if name in names}


def _score(
    adapter: Adapter, features_ND: Tensor, exam: Exam, store: FeatureStore, *, epoch: int
) -> tuple[DevScore, Tensor]:
    with torch.no_grad():
        logits_NC = store.backbone.answer(adapter, features_ND).float().cpu()
    return _scored(logits_NC, exam, epoch=epoch)


def _scored(logits_NC: Tensor, exam: Exam, *, epoch: int) -> tuple[DevScore, Tensor]:
    loss = cross_entropy(logits_NC, exam.rows.labels_N)
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


class _Run:
    """One training: forward and backward of a step, from features while the body stands still."""

    def __init__(
        self, adapter: Adapter, settings: Settings, rows: Rows, store: FeatureStore, generator: torch.Generator
    ) -> None:
        self.adapter = adapter
        self.num_parts = 1
        self.num_tokens = 0
        self._settings, self._rows, self._store = settings, rows, store
        self._lengths = [len(e.ids) + adapter.prefix_tokens for e in rows.encodings]
        self.dropout = Dropout(share=settings.dropout, generator=generator)
        self._weights_C = balanced_weights(rows.labels_N, len(adapter.labels)) if settings.balanced else None
        self._frozen_features = _Features(adapter, rows.encodings, store)
        self._body_moved = False
        self._features_ND: Tensor | None = None

    def start_epoch(self, trained: Sequence[str]) -> bool:
        """Returns whether the body trains in this epoch."""
        trains_body = any(name.split(".")[0] in BODY_PARTS for name in trained)
        self._features_ND = None if trains_body else self._frozen_features(changed=self._body_moved)
        self._body_moved = trains_body
        return trains_body

    def epoch(self, epoch: int, optimizer: Optimizer, rng: np.random.Generator, observe: Observe) -> str | None:
        """All steps of an epoch; returns why to stop, if something said so."""
        batches = epoch_batches(self._lengths, self._settings.batch_size, rng)
        for number, batch in enumerate(batches):
            if not self.step(batch, optimizer):
                return f"diverged at step {epoch * len(batches) + number + 1}: the loss is not finite"
            self.num_tokens += sum(self._lengths[k] for k in batch)
            stop = observe(epoch + (number + 1) / len(batches), None)
            if stop is not None:
                return stop
        return None

    def step(self, batch: Sequence[int], optimizer: Optimizer) -> bool:
        """One update; returns whether the loss was finite."""
        losses = self._losses(batch, optimizer)
        if not all(math.isfinite(loss) for loss in losses):
            optimizer.clear()
            return False
        optimizer.step()
        return True

    def _losses(self, batch: Sequence[int], optimizer: Optimizer) -> list[float]:
        """Gradients of a batch, in smaller and smaller pieces until they fit in memory; returns the pieces' losses."""
        count = self._count(batch)
        while True:
            try:
                return [self._backward(part, count) for part in micro_batches(batch, self.num_parts)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            optimizer.clear()
            if self.num_parts >= len(batch):
                raise OutOfMemory("a single row does not fit in memory. Use shorter texts (--max-tokens).")
            self.num_parts *= 2

    def _count(self, batch: Sequence[int]) -> float:
        """What the summed loss of a whole step is divided by."""
        if self._weights_C is None:
            return float(len(batch))
        return float(self._weights_C[self._rows.labels_N[list(batch)]].sum())

    def _backward(self, part: Sequence[int], count: float) -> float:
        """Adds the gradients of a part's share of the step's mean loss; returns that share."""
        loss = cross_entropy(self._logits(part).cpu(), self._rows.labels_N[list(part)], self._weights_C)
        mean = loss.total / count
        mean.backward()
        return float(mean.detach())

    def _logits(self, part: Sequence[int]) -> Tensor:
        backbone = self._store.backbone
        if self._features_ND is not None:
            return backbone.answer(self.adapter, self._features_ND[list(part)], self.dropout)
        rows = [Row(encoding=self._rows.encodings[k], adapter=self.adapter) for k in part]
        return backbone.answer(self.adapter, torch.stack(backbone.readings(rows)), self.dropout)


def trainable_count(adapter: Adapter, schedule: Schedule, epochs: int) -> int:
    """Numbers that train at some time."""
    tensors: Mapping[str, Tensor] = adapter.tensors()
    return sum(tensors[name].numel() for name in trained_names(schedule, epochs))


def trained_names(schedule: Schedule, epochs: int) -> set[str]:
    """Tensors that train at some time."""
    return {name for epoch in range(epochs) for name in schedule(epoch / epochs)}
