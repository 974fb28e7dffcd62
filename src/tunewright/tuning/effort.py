"""Effort: what to try next, replayed from what was tried, the same for every family.

Nothing is kept but the trial lines: trial k is a function of (seed, k, the lines before it), so a killed search goes on
as if it had never stopped.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from tunewright.errors import RunError
from tunewright.methods.base import Choice, Range, Space
from tunewright.runs.fits import Trial
from tunewright.types import DevScore, Family, Params

_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "cut": TrialState.PRUNED,
    "unanswered": TrialState.FAIL,
}
_RANDOM_TRIALS = 3
"""Trials before the sampler models the space."""
_FAILURES = 2
"""Failed trials, and no other, after which a candidate is given up."""
_UNPRUNED_TRIALS, _UNPRUNED_EPOCHS = 1, 2
"""The first trial, and the first epochs of each, are never pruned."""


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A candidate that takes part in the search."""

    id: str
    method: str
    family: Family
    backbone: str
    space: Space
    refused: str | None = None
    """Why its base cannot run it."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What to try, and whether to give it up on the way."""

    params: Params
    should_prune: Callable[[DevScore], bool]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much each family may spend: trials, or seconds until a deadline that the harness watches."""

    trials: int | None
    pruning: bool
    seed: int
    slack: float = 0.0
    """How far behind the median of earlier trials a trial may be before it is pruned: the noise of the dev rows."""
    history: list[Trial] = field(default_factory=list)

    def next(self, entrants: Sequence[Entrant]) -> Entrant | None:
        """Whose turn it is: of the family that has spent least, the one with the fewest trials.

        Families and candidates whose space is exhausted drop out; what a candidate leaves goes to its family.
        """
        open_ = [e for e in entrants if not self._exhausted(e)]
        spent = {family: self._spent(family) for family in dict.fromkeys(e.family for e in open_)}
        if self.trials is not None:
            spent = {family: used for family, used in spent.items() if used < self.trials}
        if not spent:
            return None
        family = min(spent, key=lambda f: spent[f])
        return min((e for e in open_ if e.family == family), key=lambda e: len(self.of(e)))

    def of(self, entrant: Entrant) -> list[Trial]:
        """Its trials so far; those that are to be repeated are none."""
        return [t for t in self.history if t.candidate == entrant.id and t.status != "unanswered"]

    def is_unanswered(self, base: str) -> bool:
        """Whether its last trial ended because it did not answer any more: its search goes on when it does."""
        mine = [t.status for t in self.history if t.backbone == base]
        return mine[-1:] == ["unanswered"]

    def judged(self, entrant: Entrant) -> list[Trial]:
        """Those that say something of their setting: not those that had no time for it."""
        return [t for t in self.of(entrant) if t.status != "cut"]

    def too_slow(self, entrants: Sequence[Entrant]) -> dict[str, float]:
        """Candidates of which a single trial was cut -> seconds it was expected to take."""
        only = {e.id: mine[0] for e in entrants if len(mine := self.of(e)) == 1}
        return {name: trial.needed_s for name, trial in only.items() if trial.needed_s is not None}

    def propose(self, entrant: Entrant) -> Proposal:
        """The next point of its space: the defaults first, then Optuna's sampler on the replayed trials."""
        past = self.judged(entrant)
        distributions = {name: _distribution(value) for name, value in entrant.space.items()}
        key = np.random.SeedSequence([self.seed, len(past), *entrant.id.encode()]).generate_state(1)[0]
        sampler = optuna.samplers.TPESampler(seed=int(key), n_startup_trials=_RANDOM_TRIALS)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS, n_warmup_steps=_UNPRUNED_EPOCHS)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        for trial in past:
            study.add_trial(_replayed(trial, distributions))
        if not past:
            study.enqueue_trial({name: value.default for name, value in entrant.space.items()})
        asked = study.ask(distributions)
        params = self._untried(entrant, asked.params)

        def should_prune(score: DevScore) -> bool:
            asked.report(score.value + self.slack, score.epoch)
            return self.pruning and asked.should_prune()

        return Proposal(params=params, should_prune=should_prune)

    def _untried(self, entrant: Entrant, params: Params) -> Params:
        """The same point, or in a finite space the next one that was not tried."""
        tried = [dict(t.params) for t in self.judged(entrant)]
        if math.isinf(size(entrant.space)) or dict(params) not in tried:
            return dict(params)
        options = [v.options for v in entrant.space.values() if isinstance(v, Choice)]
        points = (dict(zip(entrant.space, point, strict=True)) for point in itertools.product(*options))
        return next(point for point in points if point not in tried)

    def untried(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """Candidates without a trial."""
        return [e for e in entrants if not self.of(e)]

    def _exhausted(self, entrant: Entrant) -> bool:
        """Nothing is left to try, it takes longer than there is time for, or it has only failed."""
        statuses = [t.status for t in self.judged(entrant)]
        hopeless = len(statuses) >= _FAILURES and set(statuses) == {"failed"}
        return len(statuses) >= size(entrant.space) or hopeless

    def _spent(self, family: Family) -> float:
        mine = [t for t in self.history if t.family == family]
        # What has nothing to tune is no tuning, and takes no trial from those that do.
        tuned = sum(1 for t in mine if t.params and t.status != "unanswered")
        return tuned if self.trials is not None else sum(t.seconds for t in mine)


def size(space: Space) -> float:
    """Points of a space; 1 for an empty one."""
    return math.prod(len(v.options) if isinstance(v, Choice) else math.inf for v in space.values())


def _distribution(value: Range | Choice) -> BaseDistribution:
    if isinstance(value, Choice):
        return CategoricalDistribution(value.options)
    return FloatDistribution(value.low, value.high, log=True)


def _replayed(trial: Trial, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    """A past trial as Optuna keeps it; a pruned one counts with its last value.

    Raises:
        RunError: It was of another space, as a version of another day had it.
    """
    try:
        return create_trial(
            state=_STATES[trial.status],
            value=None if trial.status == "failed" else trial.value,
            params=dict(trial.params),
            distributions=distributions,
            intermediate_values={int(d["epoch"]): d["value"] for d in trial.dev},
        )
    except (KeyError, ValueError):
        raise RunError(
            f"trial {trial.trial + 1} of {trial.candidate} tried {dict(trial.params)}. Allowed by this version: "
            f"values of {', '.join(distributions)}. Resume with the version that began it, or choose another --out."
        ) from None
