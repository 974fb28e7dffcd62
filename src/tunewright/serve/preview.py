"""What a model sees of a prompt and what it answers, row by row: for writing prompts by hand.

The rows are training rows of the split that `compare` makes: whoever looks at dev or test rows while writing a prompt
fits it to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Base, Row
from tunewright.backbones.kinds import find_base, open_base
from tunewright.config import RunConfig
from tunewright.data.load import load_dataset
from tunewright.errors import ConfigError
from tunewright.evaluation.named import find_metric
from tunewright.methods.prompting import asking, fitted
from tunewright.prompts.template import parse
from tunewright.runtime import device, fast_dtype
from tunewright.tuning.attempt import prepare
from tunewright.types import Example, chosen_text


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One row under a prompt."""

    id: str
    tokens: tuple[str, ...]
    """All that follows the fixed part."""
    num_tokens: int
    """Of these; of a model elsewhere those of the whole request, as they are billed."""
    num_cut: int
    """Tokens of the text that did not fit."""
    wanted: str
    """The label or target in the data."""
    answer: str
    scores: tuple[tuple[str, float], ...] = ()
    """Label -> mean log-probability per token of its words, best first; empty where texts are written."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Some rows under a prompt."""

    model: str
    max_tokens: int
    """Of the context."""
    fixed: tuple[str, ...]
    """Tokens that are the same for every row and run once."""
    rows: tuple[ShownRow, ...]
    is_here: bool = True
    """Whether the model is: of one elsewhere nobody here knows the tokens, and texts are shown whole."""


def preview(source: str, config: RunConfig, num_rows: int) -> Preview:
    """Asks a base that writes with a prompt.

    Args:
        source: The prompt as one text, as in `parse`.
        config: Data, columns, task and the model, of which the first counts.
        num_rows: Training rows to show, at most.

    Raises:
        ConfigError: The prompt names no such column; the model writes no text, or the prompt leaves a text no room.
        DataError: The file, its columns, its texts or its labels cannot be used.
    """
    dataset = load_dataset(config, source)
    task, train = dataset.task, dataset.splits.train
    parsed = parse(source, task, dataset.columns, dataset.further)
    base = open_base(find_base(config.model[0]), dtype=fast_dtype(), device=device())
    if task.kind == "choose" and not base.is_here:
        raise ConfigError(
            f"{config.model[0]!r} is elsewhere: candidates of rows are not asked for there. Give a model that is here."
        )
    if not base.answers_prompts if task.labels else not base.writes:
        able = "a decoder or a masked model" if task.labels else "a decoder"
        raise ConfigError(f"{config.model[0]!r} answers no prompts: there is nobody to ask. Give {able} with --model.")
    limit = base.max_tokens if config.max_tokens is None else min(config.max_tokens, base.max_tokens)
    prompt = fitted(parsed, base)
    metric = find_metric(config.metric, config.task, database=config.database)
    shop = prepare(task, base, train, train[:1], metric, limit)
    adapter = shop.material.adapter(**asking(shop.material, prompt))
    with torch.no_grad():
        shown = _asked(base, adapter, train[:num_rows])
    return Preview(
        model=config.model[0],
        max_tokens=base.max_tokens,
        fixed=_words(base, base.fixed_ids(prompt.fixed)),
        rows=shown,
        is_here=base.is_here,
    )


def _words(base: Base, ids: Sequence[int]) -> tuple[str, ...]:
    words = base.words(ids)
    return tuple(words) if base.is_here or not words else ("".join(words),)


def _asked(base: Base, adapter: Adapter, examples: tuple[Example, ...]) -> tuple[ShownRow, ...]:
    rows = [Row(encoding=encoding, adapter=adapter) for encoding in base.encode_for(examples, adapter)]
    billed = base.overheard(lambda: base.readings(rows) if adapter.scores_phrases else base.generate(rows))
    sizes = [len(row.encoding.ids) for row in rows] if billed is None else [e.usage.input_tokens for e in billed]
    answers: list[tuple[str, tuple[tuple[str, float], ...]]]
    if adapter.scores_phrases:
        labels = [example.choices or adapter.labels for example in examples]
        answers = [(scores[0][0], scores) for scores in _scored(base, adapter, rows, labels)]
    else:
        answers = [(found.text.strip(), ()) for found in base.generate(rows)]
    return tuple(
        ShownRow(
            id=example.id,
            tokens=_words(base, row.encoding.ids),
            num_tokens=size,
            num_cut=row.encoding.num_cut,
            wanted=chosen_text(example, str(example.label)) if example.target is None else example.target,
            answer=answer,
            scores=scores,
        )
        for example, row, size, (answer, scores) in zip(examples, rows, sizes, answers, strict=True)
    )


def _scored(
    base: Base, adapter: Adapter, rows: list[Row], labels: Sequence[Sequence[str]]
) -> list[tuple[tuple[str, float], ...]]:
    """Of each row, every label or candidate with its score, best first; a label has one phrase here."""
    if adapter.scores_choices:
        scores = [base.scores([row], row.encoding.choices)[0].tolist() for row in rows]
    else:
        assert adapter.num_phrases == len(adapter.labels)
        scores = base.scores(rows, base.phrase_ids(adapter)).tolist()
    labelled = [zip(mine, scores_C, strict=True) for mine, scores_C in zip(labels, scores, strict=True)]
    return [tuple(sorted(each, key=lambda pair: -pair[1])) for each in labelled]
