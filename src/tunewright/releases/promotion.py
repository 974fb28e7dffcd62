"""Whether a version may take the place of the live one: by their answers to the same test rows, row by row.

Shapes: N rows, M statistics of a row.
"""

from pathlib import Path

from numpy.random import default_rng

from tunewright.errors import RegistryError, RunError, counted
from tunewright.evaluation import gate
from tunewright.evaluation.gate import Outcome, Ruling
from tunewright.evaluation.metrics import row_scorer
from tunewright.evaluation.named import stored_metric
from tunewright.releases import shadow
from tunewright.releases.entries import Measured, Promotion, Version
from tunewright.releases.state import State
from tunewright.runs import record
from tunewright.runs.record import RunRecord

FIRST = "the first live version: nothing to lose against"


def promote(
    state: State, task: str, version: int, *, margin: float | None = None, force: bool = False, who: str | None = None
) -> Promotion:
    """Makes a version live if the rows show that it loses less than the margin against the one that is.

    Args:
        state: The registry.
        task: The task.
        version: The challenger.
        margin: Points of the metric out of 100; that of the challenger's run when absent.
        force: Promotes whatever the rows say; the history tells.
        who: The user of this process when absent.

    Raises:
        RegistryError: It is refused, with the reason; or there is no such version.
    """
    challenger, live = state.version(task, version), state.live(task)
    if live is not None and live.version == version:
        raise RegistryError(f"{challenger.name} is live already.")
    ruling = _with_shadow(state, judge(challenger, live, margin), challenger, live, margin)
    passed = ruling.outcome is Outcome.PASSED
    if live is not None and not passed and not force:
        raise RegistryError(
            f"{challenger.name} does not take the place of {live.name}: {ruling.reason}. "
            "Compare both on more of the same test rows, or use --force."
        )
    return state.promote(
        task, version, reason=ruling.reason, expected=None if live is None else live.version, forced=not passed, who=who
    )


def _with_shadow(
    state: State, ruling: Ruling, challenger: Version, live: Version | None, margin: float | None
) -> Ruling:
    """What the test rows say, unless answers in shadow show that it is worse on the requests there are.

    They can only refuse: feedback is given on what people care to judge.
    """
    if live is None or not state.shadow_pairs(live.task, live.version, challenger.version):
        return ruling
    seen, points = shadow.evidence(state, live, challenger), _points(challenger, margin)
    found = seen.difference
    # Where nobody said what is right it may have been right: that counts for it here.
    if found is None or (high := found.high + seen.num_unclear / found.n) >= -points / 100:
        return ruling
    bounds = f"95%, valid at every look: {100 * found.low:+.1f} to {100 * high:+.1f}"
    on = f"{counted(found.n, 'request')} ({bounds})"
    said = f"in shadow right {-100 * found.value:.1f} points less often than {live.name} on {on}"
    return Ruling(outcome=Outcome.FAILED, reason=f"{said}; on the test rows: {ruling.reason}")


def judge(challenger: Version, live: Version | None, margin: float | None = None) -> Ruling:
    """What the test rows say of a challenger against the live version; undecided where they cannot be paired.

    Args:
        challenger: The version to promote.
        live: The one it would replace.
        margin: Points of the metric out of 100; that of the challenger's run when absent.
    """
    if live is None:
        return Ruling(outcome=Outcome.PASSED, reason=FIRST)
    if live.adapter_sha256 == challenger.adapter_sha256:
        return Ruling(outcome=Outcome.PASSED, reason=f"the same adapter as {live.name}")
    try:
        new, old = _comparable(challenger, live)
        return _paired(new, old, margin)
    except RunError as error:
        return Ruling(outcome=Outcome.UNDECIDED, reason=str(error).rstrip("."))


def _comparable(challenger: Version, live: Version) -> tuple[Measured, Measured]:
    """What each was measured by.

    Raises:
        RunError: One of the two was not, or not on the same rows by the same metric.
    """
    if challenger.measured is None:
        raise RunError(f"{challenger.name} comes from no comparison")
    if live.measured is None:
        raise RunError(f"{live.name} comes from no comparison")
    new, old = challenger.measured, live.measured
    if new.test_sha256 != old.test_sha256:
        ours, theirs = new.test_sha256[:12], old.test_sha256[:12]
        raise RunError(f"they cannot be compared: its test rows are {ours}, those of {live.name} {theirs}")
    if new.metric != old.metric:
        raise RunError(f"they cannot be compared: it was judged by {new.metric}, {live.name} by {old.metric}")
    return new, old


def _paired(new: Measured, old: Measured, margin: float | None) -> Ruling:
    """Raises RunError where a run folder is gone or has changed."""
    challenger, live = _read(new), _read(old)
    task = challenger.comparison.task
    points = _own_points(challenger) if margin is None else margin
    scorer = row_scorer(stored_metric(new.metric), task.labels, challenger.rows)
    new_NM = scorer.stats(challenger.given(new.candidate))
    old_NM = scorer.stats(live.given(old.candidate, challenger))
    rng = default_rng(challenger.comparison.provenance.seed)
    ruling = gate.not_worse(scorer, new_NM, old_NM, points / 100, rng)
    pair = f"{new.candidate} of {Path(new.run).name} against {old.candidate} of {Path(old.run).name}"
    return Ruling(outcome=ruling.outcome, reason=f"{ruling.reason} ({pair}, test {new.test_sha256[:12]})")


def _points(challenger: Version, margin: float | None) -> float:
    """The margin, in points out of 100: of the challenger's run when absent, 0 where it has none to be read."""
    if margin is not None or challenger.measured is None:
        return 0.0 if margin is None else margin
    try:
        return _own_points(_read(challenger.measured))
    except RunError:
        return 0.0


def _own_points(run: RunRecord) -> float:
    decision = run.comparison.decision
    return 0.0 if decision is None else decision.margin


def _read(measured: Measured) -> RunRecord:
    """The run folder, as it was when the version was added.

    Raises:
        RunError: It is gone, was judged in folds, or has other test rows than then.
    """
    run = record.read(Path(measured.run))
    if run.comparison.protocol.kind == "folds":
        raise RunError(f"{measured.run} was judged in folds, by several models, none of which is served")
    if run.test_sha256 != measured.test_sha256:
        raise RunError(f"the test rows of {measured.run} have changed since the version was added")
    return run
