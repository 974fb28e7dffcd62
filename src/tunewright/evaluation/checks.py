"""What can make a comparison worthless, looked at one by one: each a number and a sentence.

Their guide is `docs/guides/checks.md`, a section for each code. A check that cannot be made fails: not looked at is not
the same as fine.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import integrate, stats

from tunewright.data.formats import quoted
from tunewright.evaluation import statistics
from tunewright.evaluation.reason import percent, points
from tunewright.runs.comparison import Candidate, Check, Comparison
from tunewright.types import Estimate, Family, Notice

MAX_OPTIMISM = 0.05
"""What the luck of being chosen may add to a dev value."""

MIN_EFFORT = 0.5
"""What the least tuned family must have of what the most tuned one had."""

_EXACT = 1e-9
_Z = float(stats.norm.ppf((1 + statistics.LEVEL) / 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A comparison, and what else the checks need to know of the run."""

    comparison: Comparison
    notices: Sequence[Notice]
    """About the data."""
    train_labels: Collection[str]
    """Labels that occur in the training rows."""
    test_labels: Sequence[str]
    """Label of each test row."""
    spent: Mapping[Family, float]
    """What each family with something left to tune has spent, in `unit`."""
    unit: str = "trials"

    @property
    def measured(self) -> list[Candidate]:
        """Candidates with a test value, the highest first."""
        found = [c for c in self.comparison.candidates if c.test is not None]
        return sorted(found, key=lambda c: -_value(c))

    def found(self, *codes: str) -> list[Notice]:
        """Notices of these codes."""
        return [notice for notice in self.notices if notice.code in codes]


class Finding(NamedTuple):
    """A check without its code."""

    value: float | None
    sentence: str
    passed: bool = True
    touches: tuple[str, ...] = ()


def run_checks(facts: Facts) -> tuple[Check, ...]:
    """All checks, always in the same order."""
    return tuple(Check(code=code, **check(facts)._asdict()) for code, check in CHECKS.items())


def few_test_rows(facts: Facts) -> Finding:
    """Whether the test rows separate the two highest; the value is what they can show, in points."""
    decision, n = facts.comparison.decision, facts.comparison.task.n_test
    if decision is None or len(facts.measured) < 2:
        return Finding(None, "Fewer than two candidates: nothing to separate.")
    limit = decision.minimum_detectable_difference
    second = next(c.id for c in facts.measured if c.id != decision.best)
    value = None if limit is None else 100 * limit
    needed = {other.id: other.rows_needed for other in decision.not_separated}
    if second not in needed:
        return Finding(value, f"{n} test rows tell {decision.best} from {second}, the next.")
    shown = "" if limit is None else f"; they can show differences of some {points(limit)} or more"
    rows = "" if needed[second] is None else f"; some {needed[second]} would show a difference as large as the one seen"
    sentence = f"{n} test rows do not tell {decision.best} from {second}, the next{shown}{rows}."
    return Finding(value, sentence, False, (decision.best, second))


def unequal_effort(facts: Facts) -> Finding:
    """Whether the families had about the same to tune with; the value is the least share of the most."""
    if len(facts.spent) < 2:
        return Finding(None, "Fewer than two families had more to tune.")
    most = max(facts.spent.values())
    behind = [family for family, amount in facts.spent.items() if amount < MIN_EFFORT * most]
    got = ", ".join(f"{family} {amount:.0f}" for family, amount in facts.spent.items())
    sentence = f"{'Not tuned' if behind else 'Tuned'} alike, in {facts.unit}: {got}."
    touched = tuple(c.id for c in facts.comparison.candidates if c.family in behind)
    return Finding(min(facts.spent.values()) / most if most > 0 else 1.0, sentence, not behind, touched)


def duplicates_across_splits(facts: Facts) -> Finding:
    """Rows of one split that (nearly) stand in another."""
    codes = ("duplicates-across-splits", "near-duplicates-across-splits", "near-duplicates-not-grouped")
    found, unknown = facts.found(*codes), facts.found("near-duplicates-not-searched")
    if found or unknown:
        sentence = " ".join(notice.message for notice in (*found, *unknown))
        return Finding(float(sum(notice.count for notice in found)) if found else None, sentence, False)
    return Finding(0.0, "No row is known to stand, or nearly, in two splits.")


def not_above_floor(facts: Facts) -> Finding:
    """Whether each candidate is shown to be better than the best floor, and is above chance where that is known.

    Without a floor it is to be shown better than chance. The value is the smallest lead, in points.
    """
    chance, readers = facts.comparison.task.chance, [c for c in facts.measured if not c.is_floor]
    if not readers:
        return Finding(None, "No candidate reads the text.")
    floor = next((c for c in facts.measured if c.is_floor), None)
    least = chance if floor is None else _value(floor)
    if least is None:
        return Finding(None, "No floor was measured: choose copy-input and nearest-target too.", False)
    name = f"{'chance' if floor is None else floor.id}, {percent(least)}"
    below = [c.id for c in readers if chance is not None and _value(c) < chance]
    failed = tuple(c.id for c in readers if c.id in below or not _is_above(c, floor, facts.comparison))
    sentence = f"Every candidate that reads the text is shown to be better than {name}."
    if failed:
        sentence = f"Not shown to be better than {name}: {', '.join(failed)}."
        sentence += f" Below chance, {percent(0.0 if chance is None else chance)}: {', '.join(below)}." if below else ""
    return Finding(100 * (min(map(_value, readers)) - least), sentence, not failed, failed)


def _is_above(candidate: Candidate, floor: Candidate | None, comparison: Comparison) -> bool:
    if floor is None:
        return candidate.test is not None and candidate.test.low > (comparison.task.chance or 0.0)
    pair = next((p for p in comparison.pairs if {p.a, p.b} == {candidate.id, floor.id}), None)
    return pair is not None and pair.p_adjusted < statistics.ALPHA and _value(candidate) > _value(floor)


def dev_reused(facts: Facts) -> Finding:
    """How much the luck of being chosen may have added to a dev value, in points: `expected_maximum` x standard error.

    An upper bound: draws that share their rows go up and down together, and then the highest is less lucky (Slepian's
    inequality). Only what looked at dev once a trial is counted; choices that follow earlier scores may be luckier
    (Blum and Hardt 2015, "The Ladder", section 1).
    """
    chosen = [c for c in facts.measured if c.dev is not None and not c.is_floor]
    if not chosen:
        return Finding(None, "Nothing was chosen on dev rows.")
    looks = {c.id: c.trials + sum(seed.trial is None for seed in c.seeds) for c in chosen}
    luck = {c.id: _error(c.dev) * expected_maximum(looks[c.id]) for c in chosen}
    worst = max(luck, key=lambda name: luck[name])
    failed = tuple(name for name, added in luck.items() if added > MAX_OPTIMISM)
    of = f"{worst} is the highest of {looks[worst]} fits on {facts.comparison.task.n_dev} dev rows"
    sentence = f"{of}: up to {points(luck[worst])} of its dev value may be luck. Its test value is not touched."
    return Finding(100 * luck[worst], sentence, not failed, failed)


def expected_maximum(num_draws: int) -> float:
    """Expected highest of so many independent standard normal draws (David and Nagaraja 2003, section 3.1)."""

    def density(x: float) -> float:
        log = stats.norm.logpdf(x) + (num_draws - 1) * stats.norm.logcdf(x)
        return float(x * num_draws * np.exp(log))

    return 0.0 if num_draws < 2 else float(integrate.quad(density, -10, 10)[0])


def unstable_seeds(facts: Facts) -> Finding:
    """Whether other seeds move the test value more than other rows would; the value is the largest ratio of the two."""
    ratios = {c.id: ratio for c in facts.measured if (ratio := _seed_ratio(c)) is not None}
    if not ratios:
        return Finding(None, "No candidate has two seeds to compare.")
    worst = max(ratios, key=lambda name: ratios[name])
    failed = tuple(name for name, ratio in ratios.items() if ratio > 1)
    moved = f"the test value of {', '.join(failed)} more" if failed else "test values less"
    largest = f"largest for {worst}, {ratios[worst]:.2g} times as much"
    return Finding(ratios[worst], f"Seeds move {moved} than other test rows would: {largest}.", not failed, failed)


def _seed_ratio(candidate: Candidate) -> float | None:
    values = [seed.test for seed in candidate.seeds if seed.test is not None]
    error = _error(candidate.test)
    return None if len(values) < 2 or error == 0 else float(np.std(values, ddof=1)) / error


def not_reproducible(facts: Facts) -> Finding:
    """Whether each shipped adapter, loaded from disk, has the dev value it had when its training ended; in points."""
    recorded = {c.id: seed.dev for c in facts.measured for seed in c.seeds if seed.shipped and seed.dev is not None}
    gaps = {c.id: abs(c.dev.value - recorded[c.id]) for c in facts.measured if c.dev is not None and c.id in recorded}
    if not gaps:
        return Finding(None, "No candidate has dev answers to compare.")
    failed, most = tuple(name for name, gap in gaps.items() if gap > _EXACT), max(gaps.values())
    sentence = "Every shipped adapter, loaded from disk, has the dev value of its training."
    if failed:
        gap = f"by up to {points(most)}"
        sentence = f"Loaded from disk, other dev values than in training, {gap}: {', '.join(failed)}."
    return Finding(100 * most, sentence, not failed, failed)


def class_missing_in_train(facts: Facts) -> Finding:
    """Test rows of labels without a training row; nothing trained here can have them right."""
    missing = sorted(set(facts.test_labels) - set(facts.train_labels))
    count = sum(label in missing for label in facts.test_labels)
    sentence = "Every label of the test rows occurs in the training rows."
    if missing:
        of = f"{count} of {len(facts.test_labels)} test rows have a label without a training row"
        sentence = f"{of}: {quoted(missing)}."
    return Finding(float(count), sentence, not missing)


def test_reused(facts: Facts) -> Finding:
    """How often these test rows were answered, by runs beside this one too."""
    reads = facts.comparison.test_reads
    sentence = "These test rows were read once, by this run."
    if reads > 1:
        sentence = f"These test rows were read {reads} times, by earlier runs too: the highest of many looks flatters."
    return Finding(float(reads), sentence, reads <= 1)


def cut_texts(facts: Facts) -> Finding:
    """Percentage of texts that are longer than the base takes; too many once they could explain the whole margin."""
    task, decision = facts.comparison.task, facts.comparison.decision
    count = max((notice.count for notice in facts.found("cut-texts")), default=0)
    total = task.n_train + task.n_dev + task.n_test
    value, margin = 100 * count / total, 1.0 if decision is None else decision.margin
    sentence = "No text was cut." if count == 0 else f"{count} of {total} texts were cut, {value:.1f}%."
    return Finding(value, sentence, value <= margin)


def _value(candidate: Candidate) -> float:
    return math.nan if candidate.test is None else candidate.test.value


def _error(estimate: Estimate | None) -> float:
    """Standard error over rows, as the width of the interval has it."""
    return 0.0 if estimate is None else (estimate.high - estimate.low) / (2 * _Z)


CHECKS: Mapping[str, Callable[[Facts], Finding]] = {
    check.__name__.replace("_", "-"): check
    for check in (
        few_test_rows,
        unequal_effort,
        duplicates_across_splits,
        not_above_floor,
        dev_reused,
        unstable_seeds,
        not_reproducible,
        class_missing_in_train,
        test_reused,
        cut_texts,
    )
}
"""Code -> check."""
