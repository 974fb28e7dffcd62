"""What a run took: its effort for each family, its ledger, and what the budget left out."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import torch

from tunewright.evaluation.cost import Prices
from tunewright.runs.comparison import Candidate, FamilyEffort, Ledger
from tunewright.runs.fits import Trial, again, refits
from tunewright.runs.folder import predictions_file
from tunewright.tuning.stage import Stage
from tunewright.types import Family


def family_effort(
    families: Iterable[Family], histories: Sequence[Sequence[Trial]], prices: Prices
) -> tuple[FamilyEffort, ...]:
    """What each family got to tune itself.

    Args:
        families: That take part, in their order; repeated ones count once.
        histories: The trials of the search, or of that of each fold; the best so far is that of the first.
        prices: Of the machine.
    """
    names = dict.fromkeys(families)
    return tuple(_effort(name, [[t for t in h if t.family == name] for h in histories], prices) for name in names)


def _effort(family: Family, histories: Sequence[Sequence[Trial]], prices: Prices) -> FamilyEffort:
    seconds = sum(t.seconds for mine in histories for t in mine)
    values = [t.value if t.status == "complete" else None for t in histories[0]]
    return FamilyEffort(
        family=family,
        trials=sum(map(len, histories)),
        seconds=round(seconds, 3),
        price=prices.machine(seconds),
        best=tuple(accumulate(values, _higher)),
    )


def _higher(a: float | None, b: float | None) -> float | None:
    return max((value for value in (a, b) if value is not None), default=None)


def ledger(out: Path, stages: Sequence[Stage], candidates: Sequence[Candidate]) -> Ledger:
    """What the whole run took until now, over all its sessions and stages."""
    session, found = stages[0].session, [r for stage in stages for r in refits(stage.session.out)]
    clock, prices = session.clock, session.price_list.prices
    history = [trial for stage in stages for trial in stage.effort.history]
    tuning_s, refits_s = sum(t.seconds for t in history), sum(r.seconds for r in again(found))
    test_s = sum(clock.test_s.values())
    peaks = [r.peak_memory_bytes for r in found if r.peak_memory_bytes is not None]
    wall_s = round(clock.elapsed_s, 3)
    requests = None if session.spending is None else session.spending.taken()
    return Ledger(
        wall_s=wall_s,
        tuning_s=round(tuning_s, 3),
        refits_s=round(refits_s, 3),
        test_s=round(test_s, 3),
        cpu_s=round(clock.cpu_s, 3),
        # The accelerator is held, and paid for, while anything runs on it.
        gpu_s=round(tuning_s + refits_s + test_s, 3) if torch.cuda.is_available() else None,
        peak_memory_bytes=max(peaks, default=None),
        tokens=sum(fit.num_tokens for fit in (*history, *again(found))),
        stored_bytes=_stored_bytes(out),
        price=prices.machine(wall_s) + (0.0 if requests is None or requests.price is None else requests.price),
        requests=requests,
        budget_s=session.config.budget,
        max_cost=session.config.max_cost,
        not_done=() if clock.budget_s is None else _not_done(stages, candidates),
    )


def _stored_bytes(out: Path) -> int:
    return sum(path.stat().st_size for path in (out / "adapters").rglob("*") if path.is_file())


def _not_done(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What the budget left out in any stage, each once."""
    return tuple(dict.fromkeys(said for stage in stages for said in _left_out(stage, candidates)))


def _left_out(stage: Stage, candidates: Sequence[Candidate]) -> list[str]:
    """What the budget left out of a stage, from what is in its folder."""
    session, effort = stage.session, stage.effort
    found, said = refits(session.out), list[str]()
    if effort.trials is not None and effort.next(session.entrants) is not None:
        said.append(f"search ended before {effort.trials} trials for each family")
    cut = [entrant.id for entrant in session.entrants if any(t.status == "cut" for t in effort.of(entrant))]
    said += [f"{name}: a trial was cut" for name in cut]
    settled = {trial.candidate for trial in effort.history if trial.status == "complete"}
    taking_part = {entrant.id for entrant in (*session.entrants, *stage.refused)}
    for candidate in (c for c in candidates if c.id in taking_part):
        mine = [r for r in found if r.candidate == candidate.id]
        unanswered = [r.seed for r in mine if not predictions_file(session.out, candidate.id, r.seed).exists()]
        missing = session.config.seeds - len(mine)
        if candidate.status == "skipped" and candidate.trials == 0:
            said.append(f"{candidate.id}: no trial")
        elif missing > 0 and candidate.id in settled:
            said.append(f"{candidate.id}: {missing} of {session.config.seeds} refits")
        if unanswered:
            said.append(f"{candidate.id}: test rows of seed {', '.join(map(str, unanswered))}")
        if candidate.test is not None and len(candidate.cost.latency) == 0:
            said.append(f"{candidate.id}: timing of requests")
    return said
