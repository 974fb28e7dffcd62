"""The loop: the same for every method. A method only says which tensors train, and when.

Shapes: N rows, C labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.dropout import Dropout
from tunewright.backbones.inference import FeatureStore
from tunewright.backbones.recomputed import recomputing
from tunewright.errors import OutOfMemory, counted
from tunewright.runtime import is_out_of_memory, torch_generator
from tunewright.training.batching import epoch_batches, micro_batches
from tunewright.training.objective import Exam, Objective, Rows, TextExam, objective
from tunewright.training.optim import Optimizer, Rates
from tunewright.training.state import State
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
    recomputes: bool = False
    """Whether not even a single row fitted unless layers ran again on the way back."""
    dev_logits_NC: Tensor | None = None
    """That adapter's answers to the exam."""
    state: State | None = None
    """After that epoch, where it was asked for."""


def train(  # noqa: PLR0913
    adapter: Adapter,
    schedule: Schedule,
    settings: Settings,
    rows: Rows,
    exam: Exam | TextExam,
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
        state: Tensors and moments to begin with, of the same names and shapes; schedule and best epoch are this one's.
        keeps_state: Whether to return those of the best epoch.

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
    dropout = Dropout(share=settings.dropout, generator=torch_generator(rng))
    aim = objective(adapter.with_tensors(leaves), rows, exam, store, dropout, balanced=settings.balanced)
    run = _Run(settings, aim, dropout)
    best, stop = Best(patience=settings.patience), None
    if state is not None:
        _restore(state, leaves, optimizer)
    kept: State | None = None
    for epoch in range(settings.epochs):
        aim.start_epoch(optimizer.start_epoch(epoch))
        stop = run.epoch(epoch, optimizer, rng, observe)
        if stop is None:
            score, logits_NC = aim.examine(epoch + 1)
            if not math.isfinite(score.loss):
                stop = f"diverged in epoch {epoch + 1}: the loss on dev is not finite"
                break
            best.offer(score, leaves, logits_NC)
            if keeps_state and best.score is score:
                kept = State(leaves=best.tensors, moments=optimizer.moments())
            stop = observe(epoch + 1.0, score)
        if stop is None and best.exhausted(epoch + 1):
            stop = f"no better for {counted(settings.patience, 'epoch')}"
        if stop is not None:
            break
    return Trained(
        adapter=adapter.with_tensors(best.tensors).settled(),
        scores=tuple(best.scores),
        best=best.score,
        stopped="finished" if stop is None else stop,
        num_tokens=run.num_tokens,
        micro_batches=run.num_parts,
        recomputes=run.recomputes,
        dev_logits_NC=best.logits_NC,
        state=kept,
    )


def _restore(state: State, leaves: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    assert state.fits(leaves), "a state of other tensors"
    with torch.no_grad():
        for name, tensor in leaves.items():
            tensor.copy_(state.leaves[name])
    optimizer.restore(state.moments)


def _leaves(adapter: Adapter, rates: Sequence[Rates]) -> dict[str, Tensor]:
    """fp32 copies of the tensors that train at some time."""
    tensors = adapter.tensors()
    names = {name for rate in rates for name in rate}
    assert names <= set(tensors), f"not tensors of the adapter: {sorted(names - set(tensors))}"
    return {name: tensors[name].detach().clone().float() for name in tensors if name in names}


class _Run:
    """One training: the steps of an epoch, each in as many parts as fit in memory."""

    def __init__(self, settings: Settings, aim: Objective, dropout: Dropout) -> None:
        self.num_parts = 1
        self.num_tokens = 0
        self.recomputes = False
        self.dropout = dropout
        self._settings, self._aim = settings, aim

    def epoch(self, epoch: int, optimizer: Optimizer, rng: np.random.Generator, observe: Observe) -> str | None:
        """All steps of an epoch; returns why to stop, if something said so."""
        lengths = self._aim.lengths
        batches = epoch_batches(lengths, self._settings.batch_size, rng)
        for number, batch in enumerate(batches):
            if not self.step(batch, optimizer):
                return f"diverged at step {epoch * len(batches) + number + 1}: the loss is not finite"
            self.num_tokens += sum(lengths[k] for k in batch)
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
        count = self._aim.count(batch)
        while True:
            try:
                with recomputing(self.recomputes):
                    return [self._backward(part, count) for part in micro_batches(batch, self.num_parts)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            optimizer.clear()
            if self.num_parts < len(batch):
                self.num_parts *= 2
            elif not self.recomputes:
                self.recomputes = True
            else:
                raise OutOfMemory("a single row does not fit in memory. Use shorter texts (--max-tokens).")

    def _backward(self, part: Sequence[int], count: float) -> float:
        """Adds the gradients of a part's share of the step's mean loss; returns that share."""
        mean = self._aim.loss(part) / count
        mean.backward()
        return float(mean.detach())


def trainable_count(adapter: Adapter, schedule: Schedule, epochs: int) -> int:
    """Numbers that train at some time."""
    tensors: Mapping[str, Tensor] = adapter.tensors()
    return sum(tensors[name].numel() for name in trained_names(schedule, epochs))


def trained_names(schedule: Schedule, epochs: int) -> set[str]:
    """Tensors that train at some time."""
    return {name for epoch in range(epochs) for name in schedule(epoch / epochs)}
