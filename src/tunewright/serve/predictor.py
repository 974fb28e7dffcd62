"""An adapter with its base, ready to answer: what `predict`, `evaluate` and the Python interface call."""

from collections.abc import Sequence
from pathlib import Path

import torch

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Base, Encoding
from tunewright.backbones.inference import FeatureStore, answer
from tunewright.backbones.kinds import find_base, open_base
from tunewright.data.chats import spoken
from tunewright.errors import AdapterError, DataError
from tunewright.evaluation import bootstrap
from tunewright.evaluation.metrics import row_scorer
from tunewright.evaluation.named import find_metric, stored_metric
from tunewright.runs.shipped import recommended
from tunewright.runtime import device, fast_dtype, generator
from tunewright.types import Estimate, Example, Prediction, TaskKind

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16)}


class Predictor:
    """Answers rows by one adapter.

    Args:
        adapter: The adapter.
        backbone: Its base.

    Raises:
        AdapterError: The adapter belongs to another base; both hashes are named.
    """

    def __init__(self, adapter: Adapter, backbone: Base) -> None:
        backbone.check(adapter)
        self.adapter = adapter
        self._store = FeatureStore(backbone, keeps=False)

    @classmethod
    def load(cls, path: str | Path, *, model: str | None = None) -> "Predictor":
        """From an adapter folder, or the one that a run recommends.

        Args:
            path: The folder of either.
            model: Where the base is, when not under the name it had in training.

        Raises:
            AdapterError: No adapter there, of another base, or of a precision that is none.
            ModelError: The base cannot be loaded, or is behind an endpoint that only the folder names.
            RunError: The run recommends no adapter of its own.
        """
        path = recommended(Path(path))
        adapter = folder.load(path)
        dtype = dtype_of(adapter, path)
        base = find_base(adapter.base.name, is_given=False) if model is None else find_base(model)
        return cls(adapter, open_base(base, dtype=dtype, device=device()))

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities; none where it writes texts."""
        return self.adapter.labels

    def predict(self, rows: Sequence[str | tuple[str, str] | Example]) -> list[Prediction]:
        """Label and probabilities of each row, or its text; in order.

        Args:
            rows: Texts, pairs of texts, or examples where there is more.

        Raises:
            DataError: A text is empty, or no text; pairs are missing or not wanted, a column that the template shows is
                missing, or one text stands where a list of them should.
        """
        if isinstance(rows, str):
            raise DataError(f"`rows` must be a list of texts. Got one text, {rows[:40]!r}. Write predict([text]).")
        examples = [spoken(_example(row, k), self.adapter.about) for k, row in enumerate(rows, 1)]
        empty = [e.id for e in examples if not e.text.strip()]
        if empty:
            raise DataError(f"row {empty[0]} has an empty text ({len(empty)} in all). Every row needs one.")
        self._check_pairs(examples)
        for template in (each.template for each in self.adapter.each if each.template is not None):
            for example in examples:
                template.words(example)
        self._check_choices(examples)
        return answer(self.adapter, examples, self._store)

    def _check_choices(self, examples: Sequence[Example]) -> None:
        """All rows have as many candidates as in training."""
        count = 0 if self.adapter.candidates is None else len(self.labels)
        wanted = f"{count} candidates a row: give Example(id, text, choices)" if count else "rows without `choices`"
        _refuse([e.id for e in examples if len(e.choices) != count], wanted)

    def _check_pairs(self, examples: Sequence[Example]) -> None:
        """All rows have a second text where the adapter was trained on pairs, and none where it was not."""
        columns = self.adapter.about.get("columns")
        if columns is None:
            return
        paired = "text_pair" in columns
        wanted = "pairs: give (text, text_pair)" if paired else "single texts: leave `text_pair` out"
        _refuse([e.id for e in examples if (e.text_pair is not None) != paired], wanted)

    @property
    def _kind(self) -> TaskKind:
        if self.adapter.writes_text:
            return "generate"
        if self.adapter.candidates is not None:
            return "choose"
        return "multi-label" if self.adapter.answers_sets else "classify"

    def encode(self, examples: Sequence[Example]) -> list[Encoding]:
        """Tokenised as in training: cut to what prompt or prefix leave."""
        return self._store.backbone.encode_for(examples, self.adapter)

    def cut_ids(self, examples: Sequence[Example]) -> list[str]:
        """Ids of the rows whose text is longer than fits."""
        return [e.id for e, encoding in zip(examples, self.encode(examples), strict=True) if encoding.num_cut]

    def evaluate(
        self, examples: Sequence[Example], *, metric: str | None = None, database: str | None = None
    ) -> Estimate:
        """The metric on rows whose answers are known, with a 95% interval.

        Args:
            examples: With labels, of which one the adapter does not know counts as wrong; or with references.
            metric: The task's own when absent. Code of a user's is imported only where it is named here.
            database: SQLite file, for `sql-execution`.

        Raises:
            ConfigError: No such metric, one of other tasks, or without what it needs.
            RunError: The task's own is code of a user's.
        """
        name = str(self.adapter.about.get("metric", "accuracy")) if metric is None else metric
        if metric is None and database is None:
            stored_metric(name)
        found = find_metric(name, self._kind, database=database)
        scorer = row_scorer(found, self.labels, examples)
        stats_NM = scorer.stats([each.answer for each in self.predict(examples)])
        return bootstrap.interval(scorer, stats_NM, generator("evaluate", name))


def _example(row: object, number: int) -> Example:
    """A row as it may be given; texts are numbered."""
    match row:
        case Example():
            return row
        case str():
            return Example(id=str(number), text=row)
        case (str(text), str(text_pair)):
            return Example(id=str(number), text=text, text_pair=text_pair)
    raise DataError(f"row {number} is no text: {row!r:.40}. Allowed: texts, pairs (text, text_pair), or Examples.")


def _refuse(wrong: Sequence[str], wanted: str) -> None:
    if wrong:
        raise DataError(f"row {wrong[0]} does not fit ({len(wrong)} in all). The adapter was trained on {wanted}.")


def dtype_of(adapter: Adapter, path: Path) -> torch.dtype:
    """As evaluated, so served: in the precision of its run, whatever is fastest here."""
    if "dtype" not in adapter.about:
        return fast_dtype()
    name = str(adapter.about["dtype"])
    if name not in _DTYPES:
        allowed = ", ".join(_DTYPES)
        raise AdapterError(f"`dtype` of {path} is {name!r}. Allowed: {allowed}. Restore the folder.")
    return _DTYPES[name]
