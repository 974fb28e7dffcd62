"""What the candidates answered on the test rows: one's confusion and classes, where they disagree, what they wrote."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from tunewright.evaluation.texts import rouge_l
from tunewright.types import Example, chosen_text, label_set

Answers = Mapping[str, str]
"""Row id -> label or text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A count out of a count: divided once, when it is shown."""

    hits: int
    n: int

    @property
    def value(self) -> float | None:
        return self.hits / self.n if self.n else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """How one class fared."""

    label: str
    recall: Share
    precision: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """A test row on which candidates differ."""

    row: Example
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    """(label, the candidates that gave it), most given first."""
    pairs: int
    """Pairs of candidates that differ on it."""


def confusion(rows: Sequence[Example], answers: Answers, labels: Sequence[str]) -> list[list[int]]:
    """Counts [truth][answer], both in the order of `labels`.

    Rows without an answer, and those of a label that is not known, are left out.
    """
    index = {label: position for position, label in enumerate(labels)}
    matrix = [[0] * len(labels) for _ in labels]
    for row in rows:
        truth, answer = index.get(row.label or ""), index.get(answers.get(row.id, ""))
        if truth is not None and answer is not None:
            matrix[truth][answer] += 1
    return matrix


def class_scores(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> list[ClassScore]:
    """Recall and precision of every class, in the order of `labels`."""
    return [_score(k, matrix[i][i], sum(matrix[i]), sum(row[i] for row in matrix)) for i, k in enumerate(labels)]


def label_scores(rows: Sequence[Example], answers: Answers, labels: Sequence[str]) -> list[ClassScore]:
    """The same where a row may have several labels: each against all rows that were answered."""
    pairs = [(set(label_set(str(row.label))), set(label_set(answers[row.id]))) for row in rows if row.id in answers]
    true, given = Counter(k for truth, _ in pairs for k in truth), Counter(k for _, said in pairs for k in said)
    both = Counter(k for truth, said in pairs for k in truth & said)
    return [_score(label, both[label], true[label], given[label]) for label in labels]


def _score(label: str, hits: int, true: int, given: int) -> ClassScore:
    return ClassScore(label=label, recall=Share(hits=hits, n=true), precision=Share(hits=hits, n=given))


def mistakes(matrix: Sequence[Sequence[int]], labels: Sequence[str], limit: int = 10) -> list[tuple[str, str, int]]:
    """The most frequent confusions (truth, answer, count), most frequent first, then in the order of the labels."""
    cells = [
        (labels[i], labels[j], count)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count > 0
    ]
    return sorted(cells, key=lambda cell: -cell[2])[:limit]


def disagreements(rows: Sequence[Example], answers: Mapping[str, Answers], limit: int = 50) -> list[Disagreement]:
    """The rows with most pairs of candidates that differ; in file order where equal.

    Args:
        rows: Test rows.
        answers: Candidate -> its answers.
        limit: At most so many.
    """
    found = [_disagreement(row, answers) for row in rows]
    return sorted((item for item in found if item.pairs > 0), key=lambda item: -item.pairs)[:limit]


def _disagreement(row: Example, answers: Mapping[str, Answers]) -> Disagreement:
    given = {candidate: by_row[row.id] for candidate, by_row in answers.items() if row.id in by_row}
    counts = Counter(given.values())
    grouped = tuple(
        (chosen_text(row, label), tuple(candidate for candidate, answer in given.items() if answer == label))
        for label, _ in counts.most_common()
    )
    shown = row if row.label is None else replace(row, label=chosen_text(row, row.label))
    return Disagreement(row=shown, answers=grouped, pairs=sum(a * b for a, b in combinations(counts.values(), 2)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What some candidates wrote."""

    text: str
    score: float
    """ROUGE-L with the nearest reference, whatever the task's metric: it is one that a single row has."""
    candidates: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """All that was written for a test row."""

    row: Example
    texts: tuple[Text, ...]
    """The nearest to a reference first."""

    @property
    def spread(self) -> float:
        """From the farthest to the nearest."""
        return self.texts[0].score - self.texts[-1].score


def written(rows: Sequence[Example], answers: Mapping[str, Answers], limit: int = 50) -> list[Written]:
    """The rows on which texts are of the most different worth; in file order where equal.

    Args:
        rows: Test rows with their references.
        answers: Candidate -> its answers.
        limit: At most so many.
    """
    found = [_written(row, answers) for row in rows if row.references]
    return sorted((item for item in found if len(item.texts) > 1), key=lambda item: -item.spread)[:limit]


def _written(row: Example, answers: Mapping[str, Answers]) -> Written:
    by_text: dict[str, list[str]] = {}
    for candidate, by_row in answers.items():
        if row.id in by_row:
            by_text.setdefault(by_row[row.id], []).append(candidate)
    scores_N = rouge_l(list(by_text), [row.references] * len(by_text), ())
    texts = [
        Text(text=text, score=float(score), candidates=tuple(by))
        for (text, by), (score,) in zip(by_text.items(), scores_N.reshape(-1, 1).tolist(), strict=True)
    ]
    return Written(row=row, texts=tuple(sorted(texts, key=lambda each: -each.score)))
