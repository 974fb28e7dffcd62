"""How answers on unseen rows are obtained: one test split, or folds where that would show too little."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.config import RunConfig
from tunewright.data.duplicates import exact_groups
from tunewright.data.folds import Fold, split_folds
from tunewright.data.load import Given, split_once
from tunewright.data.splits import WEIGHTS, apportion, scarce_classes
from tunewright.evaluation.statistics import minimum_detectable_difference
from tunewright.runs.comparison import Protocol
from tunewright.runs.folder import fold_folder
from tunewright.types import Dataset, Notice, TaskKind

FOLDS = 5
"""Where the user does not say."""

SEPARATED = 0.05
"""A test split that cannot show a difference of this size is too small."""

DISAGREEMENT = 0.1
"""Share of rows that exactly one of two good candidates has right; see docs/guides/small-data.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The rows of a run, and how they are used."""

    dataset: Dataset
    protocol: Protocol
    folds: tuple[Fold, ...] = ()
    """Of every repeat, in order; none where there is a single split."""

    def folder(self, out: Path) -> Path:
        """Where the search ends in what is shipped: in the run folder itself, or beside the folds."""
        return fold_folder(out, "all") if self.folds else out


def faults(config: RunConfig) -> list[str]:
    """Settings without effect, a line each."""
    found = _of_other_tasks(config)
    has_folds = config.folds is not None and config.folds > 1
    if has_folds and config.error_costs is not None:
        found.append("`error_costs` needs one model and its test rows; folds have a model each. Give --folds 1.")
    elif config.repeats > 1 and not has_folds:
        found.append(f"`repeats` needs folds to repeat. Got {config.repeats}. Add --folds {FOLDS}, or leave it out.")
    return found


_USELESS: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": ("input", "target", "label_separator", "choices"),
    "multi-label": ("input", "target", "error_costs", "choices"),
    "choose": ("input", "target", "label_separator", "descriptions", "error_costs", "swap"),
    "generate": ("text", "label", "descriptions", "error_costs", "swap", "label_separator", "choices"),
}
"""Kind of task -> settings that others have."""


def _of_other_tasks(config: RunConfig) -> list[str]:
    """Settings that only another kind of task has."""
    names = _USELESS[config.task]
    instead = {
        "text": " The column of the input is --input.",
        "label": " The column of the answer is --target.",
        "label_separator": " Or add --task multi-label.",
        "choices": " Or add --task choose.",
    }
    if config.task != "generate":
        instead |= dict.fromkeys(("input", "target"), " Or add --task generate.")
    return [
        f"`{name}` has no use with --task {config.task}. Got {getattr(config, name)!r}. Leave it out."
        f"{instead.get(name, '')}"
        for name in names
        if getattr(config, name)
    ]


def make_plan(config: RunConfig, given: Given) -> Plan:
    """Folds where the user asks for them, or does not say and a test split of ours would be too small.

    Raises:
        ConfigError: Folds, and dev or test rows besides; or descriptions that do not fit the labels.
        DataError: A class has too few rows.
    """
    num_folds, reason = (config.folds, None) if config.folds is not None else _choose(config, given)
    if num_folds > 1:
        dataset, folds = split_folds(given, config, num_folds)
        protocol = Protocol(kind="folds", folds=num_folds, repeats=config.repeats, reason=reason)
    else:
        dataset, folds, protocol = split_once(given, config), (), Protocol()
    if reason is not None:
        notice = Notice(code="few-test-rows", message=reason, count=len(dataset.splits.test))
        dataset = dataclasses.replace(dataset, notices=(*dataset.notices, notice))
    return Plan(dataset=dataset, protocol=protocol, folds=folds)


def _choose(config: RunConfig, given: Given) -> tuple[int, str | None]:
    """The number of folds, 1 for a single split, and what is to be said of it."""
    rows = given.rows["train"]
    if config.task != "classify":
        return 1, None  # what rows can show of texts or sets is not known beforehand, and folds write for hours
    if len(given.rows) > 1 or scarce_classes(rows, exact_groups(rows), FOLDS):
        return 1, None
    weights, counts = list(WEIGHTS.values()), Counter(row.label for row in rows)
    num_test = sum(apportion(count, weights, least=1)[-1] for count in counts.values())
    detectable = minimum_detectable_difference(DISAGREEMENT, num_test)
    if detectable <= SEPARATED:
        return 1, None
    why = f"A test split of {num_test} rows can show only differences of {100 * detectable:.0f} points or more"
    if config.error_costs is not None:
        return (
            1,
            f"{why}. Folds would show more; --error-costs needs one model and its test rows, so there is one split.",
        )
    if config.budget is not None or config.max_cost is not None:
        return 1, (
            f"{why}. With --folds {FOLDS} each of the {len(rows)} rows would be held out once; {FOLDS + 1} searches "
            "would then share the budget."
        )
    return FOLDS, (
        f"{why}: each of the {len(rows)} rows is held out once instead, in {FOLDS} folds. That takes 3 to {FOLDS} "
        "times as long; --folds 1 keeps the single split."
    )
