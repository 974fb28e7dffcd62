"""From the settings to a dataset: read, choose columns, check, split once, limit, and say what was noticed."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunewright.config import RunConfig
from tunewright.data import duplicates
from tunewright.data.chats import with_reply
from tunewright.data.choices import to_choices, without_choices
from tunewright.data.columns import TARGET_NAMES, check_shown, find_columns
from tunewright.data.examples import check_reasoning, to_examples
from tunewright.data.formats import quoted
from tunewright.data.labels import are_integers, check_labels, describe, error_costs, label_order
from tunewright.data.rules import check_fields, parse_rules, slice_rows
from tunewright.data.sets import check_sets, set_notices, strata, to_sets
from tunewright.data.sources import read_source
from tunewright.data.splits import (
    WEIGHTS,
    check_classes,
    check_train,
    limit_rows,
    rows_sha256,
    scarce_classes,
    split_rows,
)
from tunewright.data.swaps import absent_terms, swapped_rows
from tunewright.data.tables import empty_rows
from tunewright.data.targets import by_input, can_split, check_inputs, check_targets, limit_dev, target_notices
from tunewright.errors import DataError, counted
from tunewright.types import Dataset, Example, Notice, Splits, Task

Rows = Mapping[str, tuple[Example, ...]]
"""Split -> examples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """The user's rows as they came, before any split of ours."""

    name: str
    rows: Rows
    """`train`, and `dev` and `test` where they are given."""
    columns: Mapping[str, str]
    notices: tuple[Notice, ...]
    further: tuple[str, ...] = ()
    """The other columns, which a template may show."""
    asked: tuple[str, ...] = ()
    """Of these the ones that it does show."""
    is_reply: bool = False


def read_rows(config: RunConfig, template: str = "") -> Given:
    """Reads the files, chooses columns and checks.

    Args:
        config: The settings.
        template: The user's, whose columns come with the rows.

    Raises:
        DataError: The file, its columns, its texts or its labels cannot be used.
    """
    source = read_source(config)
    answers = {"target": config.target} if config.task == "generate" else {"label": config.label}
    text, several = config.input if config.task == "generate" else config.text, config.task == "multi-label"
    is_reply = False
    if config.task == "generate" and config.target is None:
        tables = {split: with_reply(table, text, TARGET_NAMES) for split, table in source.tables.items()}
        is_reply = tables != source.tables
        source = replace(source, tables=tables)
    asked = source.tables["train"]
    if config.task == "choose":
        asked = {split: without_choices(table, config.choices) for split, table in source.tables.items()}["train"]
    columns, said = find_columns(asked, config.task, text=text, text_pair=config.text_pair, **answers)
    judged = source.tables.get("test", source.tables["train"])
    fields = check_fields(parse_rules(config.slice), judged.columns, judged.path)
    check_reasoning(source.tables["train"], config.reasoning, columns)
    taken = {*columns.values(), config.reasoning}
    further = tuple(name for name in source.tables["train"].columns if name not in taken)
    shown = tuple(name for name in further if f"{{{name}}}" in template)
    check_shown(source.tables.values(), shown)
    rows = {
        split: to_examples(
            table,
            columns,
            source=source.prefix(split),
            fields=(*shown, *fields) if table is judged else shown,
            several=several,
            reasoning=config.reasoning if split == "train" or config.reasoning == columns.get("target") else None,
        )
        for split, table in source.tables.items()
    }
    read = []
    if config.task == "generate":
        check_targets(rows["train"], config.data)
    elif config.task == "choose":
        found = {split: to_choices(rows[split], source.tables[split], config.choices) for split in rows}
        rows, read = {split: made for split, (made, _) in found.items()}, [found["train"][1]]
    elif several:
        rows = {s: to_sets(found, config.label_separator, source.tables[s].path) for s, found in rows.items()}
        check_sets(rows["train"], config.data)
    else:
        check_labels([example for examples in rows.values() for example in examples], config.data)
        check_labels(rows["train"], config.data)
        _check_known_labels(rows, {split: table.path for split, table in source.tables.items()})
    notices = (said, *read, *source.notices, *empty_rows(source.tables.values()))
    return Given(
        name=source.name, rows=rows, columns=columns, notices=notices, further=further, asked=shown, is_reply=is_reply
    )


def load_dataset(config: RunConfig, template: str = "") -> Dataset:
    """The task and its three splits; see `read_rows` and `split_once`.

    Raises:
        DataError: The file, its columns, its texts or its labels cannot be used.
        ConfigError: Descriptions or costs do not fit the labels; slices or swapped terms do not fit the rows.
    """
    return split_once(read_rows(config, template), config)


def split_once(given: Given, config: RunConfig) -> Dataset:
    """One train, dev and test split.

    Given splits are used as they are. What is not given is split off the training rows, 70/10/20, stratified by label,
    with exact and near duplicates on one side. `rows` then limits the training rows alone.

    Raises:
        DataError: A class has too few rows.
        ConfigError: The label descriptions do not fit the labels.
    """
    split_rng, rows_rng = np.random.default_rng(config.seed).spawn(2)
    rows, noticed = _complete(given.rows, split_rng, config.data)
    return to_dataset(given, rows, noticed, config, rows_rng)


def to_dataset(
    given: Given, rows: Rows, noticed: Sequence[Notice], config: RunConfig, rng: np.random.Generator
) -> Dataset:
    """The task with its rows.

    Args:
        given: Where they come from.
        rows: All three splits.
        noticed: On the way from the one to the other.
        config: The settings.
        rng: Chooses the training rows where they are limited.

    Raises:
        DataError: So few rows that a single class is left.
        ConfigError: The label descriptions do not fit the labels.
    """
    to_task = {"generate": _generating, "choose": _choosing}.get(config.task, _classifying)
    train, limited = limit_train(rows["train"], config.rows, rng)
    task, rows, said = to_task(given, rows, train, config)
    noticed = [*noticed, *said, *limited, *slice_rows(parse_rules(config.slice), rows["test"])[1]]
    return Dataset(
        task=task,
        splits=Splits(train=rows["train"], dev=rows["dev"], test=rows["test"]),
        sha256=data_sha256(rows, given.asked),
        notices=(*given.notices, *noticed),
        columns=given.columns,
        further=given.further,
        is_reply=given.is_reply,
    )


Made = tuple[Task, Rows, list[Notice]]
"""A task, its rows, and what was noticed of them."""


def _generating(given: Given, rows: Rows, train: tuple[Example, ...], config: RunConfig) -> Made:
    """A task of texts: every row trains, every input is judged once, against all that is right for it."""
    dev, cut = limit_dev(by_input(rows["dev"], given.asked))
    judged = by_input(rows["test"], given.asked)
    split = {"train": train, "dev": dev, "test": judged}
    return _task(given, config, (), {}), split, [*target_notices(train, judged), *cut]


def _choosing(given: Given, rows: Rows, train: tuple[Example, ...], config: RunConfig) -> Made:
    """A task of rows with candidates of their own, whose numbers are the labels."""
    labels = tuple(str(number) for number, _ in enumerate(config.choices, 1))
    return _task(given, config, labels, {label: label for label in labels}), {**rows, "train": train}, []


def _classifying(given: Given, rows: Rows, train: tuple[Example, ...], config: RunConfig) -> Made:
    """A task of labels, of which a row has one or may have several."""
    several = config.task == "multi-label"
    known = (label for split in ("train", "dev") for example in rows[split] for label in strata(example))
    labels = label_order(label for label in known if label or not several)
    said = [*_label_notices(rows, labels), *_meaningless(labels, config.descriptions)]
    said += set_notices(train) if several else _imbalance(train, config.metric)
    said += absent_terms(swapped_rows(config.swap, rows["test"]))
    in_test = {label for example in rows["test"] for label in strata(example)}
    if config.error_costs is not None:
        error_costs(labels, config.error_costs, also_known=in_test)
    task = _task(given, config, labels, describe(labels, config.descriptions, also_known=in_test))
    return task, {**rows, "train": train}, said


def _task(given: Given, config: RunConfig, labels: tuple[str, ...], descriptions: Mapping[str, str]) -> Task:
    return Task(
        name=given.name,
        labels=labels,
        descriptions=descriptions,
        metric=config.metric,
        kind=config.task,
        paired="text_pair" in given.columns,
    )


def _check_known_labels(given: Rows, paths: Mapping[str, str]) -> None:
    """Refuses given rows of which none has a label of the training rows: every score on them would be nought.

    Raises:
        DataError: With the labels of both.
    """
    trained = {str(example.label) for example in given["train"]}
    for split in ("dev", "test"):
        labels = {str(example.label) for example in given.get(split, ())}
        if labels and not labels & trained:
            raise DataError(
                f"{paths[split]}: no {split} row has a label of the training rows. Got {quoted(labels)}. "
                f"Allowed: {quoted(trained)}. Write the labels as in {paths['train']}."
            )


def _complete(given: Rows, rng: np.random.Generator, path: str) -> tuple[Rows, list[Notice]]:
    """All three splits, the missing ones taken off the training rows."""
    notices = (
        duplicates.shared_rows(given)
        + duplicates.nearly_shared_rows(given)
        + duplicates.conflicting_labels(given["train"])
    )
    weights = {split: weight for split, weight in WEIGHTS.items() if split == "train" or split not in given}
    if len(weights) == 1:
        return given, notices
    groups, said = group_rows(given["train"], list(weights), path, GIVE_FILES)
    rows = {**given, **split_rows(given["train"], groups, weights, rng)}
    check_train(given["train"], rows["train"], path)
    return rows, notices + said


GIVE_FILES = "give the splits as files with --dev and --test"
"""What is left to somebody whose classes are too small to be split."""


def group_rows(
    examples: Sequence[Example], splits: Sequence[str], path: str, remedy: str
) -> tuple[tuple[int, ...], list[Notice]]:
    """What stays together: near duplicates, or exact ones alone where else a class of one template had no test row.

    Args:
        examples: All rows that will be split.
        splits: Names of the parts, each of which needs every class.
        path: The file, for the message.
        remedy: What one can do about classes that are too small, for the message.

    Returns:
        The group of each row, and what to tell the user.

    Raises:
        DataError: A class has too few different texts.
    """
    exact, near = duplicates.exact_groups(examples), duplicates.twin_groups(examples)
    if examples[0].target is not None:
        check_inputs(examples, exact, splits, path)
        why = "" if can_split(near, len(splits)) else "too many inputs are near duplicates of each other"
    else:
        check_classes(examples, exact, splits, path, remedy)
        scarce = scarce_classes(examples, near, len(splits))
        why = f"class {quoted(scarce)} has hardly any other texts" if scarce else ""
    if not why:
        return near, duplicates.twin_notices(examples, near)
    num_near = len(set(exact)) - len(set(near))
    message = (
        f"Near duplicates were not kept in one split, as {why}: {num_near} "
        "different texts nearly repeat another. They may stand on both sides of the split; scores on them flatter."
    )
    return exact, [Notice(code="near-duplicates-not-grouped", message=message, count=num_near)]


def _meaningless(labels: Sequence[str], descriptions: str | None) -> list[Notice]:
    """Said where class names are numbers and no file says what they mean."""
    if descriptions is not None or not are_integers(labels):
        return []
    message = (
        f"The labels are numbers ({quoted(labels)}): zero-shot and new heads have no words to start from. A file of "
        "what each means helps: --descriptions."
    )
    return [Notice(code="meaningless-labels", message=message, count=len(labels))]


def _label_notices(rows: Rows, labels: Sequence[str]) -> list[Notice]:
    """Classes that one split has and another lacks."""
    trained = {label for example in rows["train"] for label in strata(example)}
    notices: list[Notice] = []
    for split in ("dev", "test"):
        unseen = [example for example in rows[split] if set(strata(example)) - trained]
        if unseen:
            names = quoted({label for example in unseen for label in strata(example)} - trained)
            said = counted(len(unseen), f"{split} row has", f"{split} rows have")
            message = f"{said} labels absent from train ({names}); they are scored as wrong."
            ids = tuple(example.id for example in unseen[: duplicates.SHOWN])
            notices.append(Notice(code=f"unseen-labels-in-{split}", message=message, count=len(unseen), ids=ids))
        absent = set(labels) - {label for example in rows[split] for label in strata(example)}
        if absent:
            message = f"No {split} row has the label {quoted(absent)}; nothing is measured for it."
            notices.append(Notice(code=f"classes-missing-in-{split}", message=message, count=len(absent)))
    return notices


_IMBALANCED = 5
"""Times as many rows in the largest class as in the smallest before it is said."""


def _imbalance(train: tuple[Example, ...], metric: str) -> list[Notice]:
    """Said where a metric counts rows; one that counts classes has them weighted in training."""
    counts = Counter(str(example.label) for example in train)
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    if metric != "accuracy" or largest < _IMBALANCED * smallest:
        return []
    message = (
        f"Training rows are imbalanced: {largest} of {most!r}, {smallest} of {least!r}. accuracy favours the large "
        "classes; with --metric macro-f1 each class counts the same, in training too."
    )
    return [Notice(code="imbalance", message=message, count=largest)]


def limit_train(
    train: tuple[Example, ...], rows: int | None, rng: np.random.Generator
) -> tuple[tuple[Example, ...], list[Notice]]:
    """The training rows to use, and which they are.

    Raises:
        DataError: So few rows that a single class is left.
    """
    if rows is None:
        return train, []
    kept = limit_rows(train, rows, rng)
    classes, left = ({example.label for example in examples} for examples in (train, kept))
    if len(left) < 2 <= len(classes):
        raise DataError(f"`rows` leaves a single class. Got {rows}. Allowed: {len(classes)}, one a class, or more.")
    message = f"{len(kept)} of {len(train)} training rows, sha256 {rows_sha256(kept)[:16]}"
    tail = f"; {len(classes) - len(left)} of {len(classes)} classes have none." if len(left) < len(classes) else "."
    return kept, [Notice(code="rows", message=message + tail, count=len(kept))]


def test_sha256(dataset: Dataset) -> str:
    """Hash of the test rows alone: runs that share it were judged on the same rows.

    Over sorted texts and labels: a file's name and the order of its rows do not change what is judged.
    """
    test = dataset.splits.test
    rows = sorted(json.dumps((row.text, row.text_pair, row.label, *row.references, *row.choices)) for row in test)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def data_sha256(rows: Rows, columns: Sequence[str] = ()) -> str:
    """Hash over ids, texts, labels, further columns and messages of all splits, in the order train, dev, test."""
    digest = hashlib.sha256()
    for split in WEIGHTS:
        for example in rows[split]:
            asked = (example.text, example.text_pair, example.label, *example.references, *example.choices)
            more = (example.fields[column] for column in columns)
            chat = (example.messages,) if example.messages else ()
            digest.update(json.dumps((split, example.id, *asked, *more, *chat)).encode() + b"\n")
    return digest.hexdigest()
