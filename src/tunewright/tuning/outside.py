"""Candidates that answered elsewhere: read before any training, stored and judged as the others are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tunewright.config import RunConfig
from tunewright.data.outside import named_files, read_outside
from tunewright.evaluation import bootstrap
from tunewright.evaluation.answers import Answers, read_answers
from tunewright.evaluation.metrics import Scorer
from tunewright.files import dump_lines, write_text
from tunewright.methods.table import METHODS
from tunewright.runs.comparison import Candidate, Cost, SeedResult
from tunewright.runs.folder import predictions_file
from tunewright.runtime import generator
from tunewright.tuning.candidates import judged
from tunewright.tuning.session import Session
from tunewright.types import Dataset, Prediction

SEED = 0
"""The one fit that an outside candidate has, for who reads `predictions/<candidate>/seed-<k>.jsonl`."""


def files(given: Sequence[str]) -> dict[str, str]:
    """Name -> file of the setting `predictions`.

    Raises:
        ConfigError: With every fault at once.
    """
    return named_files(given, METHODS)


def read(config: RunConfig, dataset: Dataset) -> dict[str, tuple[Prediction, ...]]:
    """Name -> answers to the test rows.

    Raises:
        ConfigError: With every fault of every file.
    """
    given, rows = files(config.predictions), dataset.splits.test
    return read_outside(given, rows, dataset.task, dataset.columns, config.label_separator)


def store(out: Path, found: Mapping[str, Sequence[Prediction]]) -> None:
    """Writes their answers where those of every candidate are."""
    for name, predictions in found.items():
        write_text(predictions_file(out, name, SEED), dump_lines(asdict(each) for each in predictions))


def stored(session: Session, dataset: Dataset) -> dict[str, Answers]:
    """Name -> answers, from the run folder."""
    ids = [row.id for row in dataset.splits.test]
    return {
        name: read_answers(predictions_file(session.out, name, SEED), dataset.task.labels, ids)
        for name in files(session.config.predictions)
    }


def entered(session: Session, name: str, answers: Answers, scorer: Scorer) -> Candidate:
    """A candidate of which only its answers are known."""
    rng = generator(session.config.seed, "interval", name, "test")
    test = bootstrap.interval(scorer, scorer.stats(answers.given), rng)
    found = Candidate(
        id=name,
        method="outside",
        family="outside",
        backbone="",
        status="ok",
        seeds=(SeedResult(seed=SEED, dev=None, test=test.value, shipped=True),),
        test=test,
        cost=Cost(price=session.price_list.outside.get(name)),
        remarks=session.remarks(answers.given),
    )
    return judged(session, found)
