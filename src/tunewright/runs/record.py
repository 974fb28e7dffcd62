"""All that a run folder holds for its reader, as records."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.errors import RunError
from tunewright.files import read_json, read_lines
from tunewright.runs import comparison, judgements
from tunewright.runs.comparison import Candidate, Comparison
from tunewright.runs.folder import predictions_file
from tunewright.runs.judgements import Judgement
from tunewright.runs.schema import read_as
from tunewright.types import Example, Notice, is_known


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A finished run. Only the comparison must be there; what is missing is empty."""

    folder: Path
    comparison: Comparison
    columns: Mapping[str, str]
    """Role -> the column's name in the source."""
    notices: tuple[Notice, ...]
    """What was noticed about the data."""
    environment: Mapping[str, Any]
    """`environment.json`."""
    settings: str
    """`run.yaml`, as it stands."""
    trials: tuple[Mapping[str, Any], ...]
    """The lines of `trials.jsonl`."""
    rows: tuple[Example, ...]
    """The test rows."""
    judgements: tuple[Judgement, ...]
    """Of pairs of answers, by persons and models."""
    answers: Mapping[str, Mapping[str, str]]
    """Candidate -> row id -> label or text, of its shipped artefact or, in folds, of the first repeat; without those
    that stored nothing."""

    @property
    def test_sha256(self) -> str:
        """Over what was asked of the test rows and their truth: two runs with the same one can be compared."""
        rows = sorted(json.dumps(_asked(row), sort_keys=True, ensure_ascii=False) for row in self.rows)
        return hashlib.sha256("\n".join(rows).encode("utf-8", errors="surrogatepass")).hexdigest()

    def given(self, who: str, asked: "RunRecord | None" = None) -> list[str]:
        """A candidate's answer to each test row.

        Args:
            who: The candidate.
            asked: The run whose rows and labels count, and their order; this one when absent.

        Raises:
            RunError: A row without an answer, or answered with a label of another task.
        """
        run = self if asked is None else asked
        answers, labels = self.answers.get(who, {}), run.comparison.task.labels
        missing = [row.id for row in run.rows if row.id not in answers]
        if missing:
            raise RunError(
                f"{who} of {self.folder} has no answer to {missing[0]}. Repeat the run or restore its predictions."
            )
        strange = sorted({each for each in answers.values() if not is_known(each, labels)}) if labels else []
        if strange:
            raise RunError(
                f"{who} of {self.folder} answers {strange[0]!r}, which is no label here. Compare runs of one task."
            )
        return [answers[row.id] for row in run.rows]

    @property
    def winner(self) -> Candidate | None:
        """The recommended candidate."""
        return self.comparison.winner


def read(run_dir: Path) -> RunRecord:
    """What a run folder holds.

    Raises:
        RunError: No comparison in it, or a file that is not what it should be.
    """
    result = comparison.load(run_dir)
    settings = run_dir / "run.yaml"
    data, test = _mapping(run_dir / "data.json"), run_dir / "test.jsonl"
    return RunRecord(
        folder=run_dir,
        comparison=result,
        columns={str(role): str(column) for role, column in data.get("columns", {}).items()},
        notices=tuple(_notice(found) for found in data.get("notices", ())),
        environment=_mapping(run_dir / "environment.json"),
        settings=settings.read_text(encoding="utf-8", errors="replace") if settings.exists() else "",
        trials=tuple(_lines(run_dir / "trials.jsonl")),
        rows=tuple(read_as(Example, row, f"a row of {test}") for row in _lines(test)),
        judgements=judgements.read_all(run_dir),
        answers={c.id: found for c in result.candidates if (found := _answers(run_dir, c))},
    )


def _asked(row: Example) -> dict[str, object]:
    """What counts of a row: its id pairs it, and its messages are its text; the rest is nobody's question."""
    left_out = ("fields", "several", "reasoning", "messages")
    return {k: v for k, v in dataclasses.asdict(row).items() if k not in left_out and v not in (None, ())}


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise RunError(
            f"{path} must hold a JSON object. Got {type(content).__name__}. Repeat the run or restore the file."
        )
    return content


def _notice(found: Mapping[str, Any]) -> Notice:
    code = str(found.get("code", "notice"))
    ids = tuple(str(row) for row in found.get("ids", ()))
    return Notice(code=code, message=str(found.get("message", code)), count=int(found.get("count", len(ids))), ids=ids)


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = read_lines(path)
    if not all(isinstance(record, dict) for record in lines):
        raise RunError(f"{path} must hold one JSON object a line. Repeat the run or restore the file.")
    return lines


def _answers(run_dir: Path, candidate: Candidate) -> dict[str, str]:
    """Row id -> label or text by the seed that is judged; empty where nothing is stored."""
    seed = candidate.judged_seed
    if seed is None:
        return {}
    lines = _lines(predictions_file(run_dir, candidate.id, seed))
    return {str(line.get("id")): str(line.get("label") if line.get("text") is None else line["text"]) for line in lines}
