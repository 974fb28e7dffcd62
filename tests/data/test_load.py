"""From a file to a dataset: splits, ids, notices, hash."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tunewright.config import RunConfig
from tunewright.data.load import load_dataset
from tunewright.data.load import test_sha256 as hash_of_test
from tunewright.errors import DataError
from tunewright.types import Dataset, Example

# fmt: off
WORDS = (
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "ivory", "jolly", "karma", "lemon",
    "mango", "noble", "ocean", "prism",
)
# fmt: on


def texts(count: int, offset: int = 0) -> list[str]:
    """Different texts that are no twins."""
    numbers = range(offset, offset + count)
    return [f"{WORDS[n % 16]} {WORDS[n // 16 % 16]} {WORDS[n // 256 % 16]}" for n in numbers]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("message,intent\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def labelled(count: int, labels: str = "ab", offset: int = 0) -> list[tuple[str, str]]:
    return [(text, labels[place % len(labels)]) for place, text in enumerate(texts(count, offset))]


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.splits.train), len(dataset.splits.dev), len(dataset.splits.test)


def notice(dataset: Dataset, code: str) -> tuple[str, int, tuple[str, ...]]:
    [found] = [notice for notice in dataset.notices if notice.code == code]
    return found.message, found.count, found.ids


def test_single_file(tmp_path: Path) -> None:
    rows = labelled(200)
    dataset = load_dataset(RunConfig(data=write(tmp_path / "tickets.csv", rows), metric="macro-f1"))
    assert sizes(dataset) == (140, 20, 40)
    assert (dataset.task.name, dataset.task.labels, dataset.task.metric) == ("tickets", ("a", "b"), "macro-f1")
    assert dataset.columns == {"text": "message", "label": "intent"}
    for split in (dataset.splits.train, dataset.splits.dev, dataset.splits.test):
        assert Counter(example.label for example in split) == {"a": len(split) / 2, "b": len(split) / 2}
        for example in split:
            number = int(example.id.removeprefix("tickets:"))
            assert (example.text, example.label) == rows[number - 1]
    assert [notice.code for notice in dataset.notices] == ["columns"]


def test_twins_stay_on_one_side(tmp_path: Path) -> None:
    rows = labelled(60) + [(text.upper() + "!", label) for text, label in labelled(60)]
    dataset = load_dataset(RunConfig(data=write(tmp_path / "t.csv", rows)))
    side = {int(example.id[2:]): name for name in ("train", "dev", "test") for example in getattr(dataset.splits, name)}
    assert all(side[number] == side[number + 60] for number in range(1, 61))
    assert notice(dataset, "near-duplicates")[1] == 120


@pytest.mark.parametrize(("given", "expected"), [("test", (70, 10, 18)), ("dev", (63, 18, 18)), ("both", (81, 18, 18))])
def test_the_missing_splits_come_off_train(tmp_path: Path, given: str, expected: tuple[int, int, int]) -> None:
    count = {"test": 80, "dev": 81, "both": 81}[given]
    data = write(tmp_path / "t.csv", labelled(count, "a" * 8 + "b"))
    dev = write(tmp_path / "d.csv", labelled(18, offset=200)) if given != "test" else None
    test = write(tmp_path / "e.csv", labelled(18, offset=300)) if given != "dev" else None
    dataset = load_dataset(RunConfig(data=data, dev=dev, test=test))
    assert sizes(dataset) == expected
    assert all(example.id.startswith("train:") for example in dataset.splits.train)
    if test is not None:
        assert [example.id for example in dataset.splits.test] == [f"test:{number}" for number in range(1, 19)]


def test_rows_limit_train_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(200))
    whole, some = load_dataset(RunConfig(data=data)), load_dataset(RunConfig(data=data, rows=10))
    assert (some.splits.dev, some.splits.test) == (whole.splits.dev, whole.splits.test)
    assert set(some.splits.train) < set(whole.splits.train)
    ids = "\n".join(example.id for example in some.splits.train)
    digest = hashlib.sha256(ids.encode()).hexdigest()[:16]
    assert notice(some, "rows") == (f"10 of 140 training rows, sha256 {digest}.", 10, ())
    assert some.sha256 != whole.sha256


def test_fewer_rows_than_classes(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(120, "abcd"))
    dataset = load_dataset(RunConfig(data=data, rows=3))
    assert len({example.label for example in dataset.splits.train}) == 3
    assert dataset.task.labels == ("a", "b", "c", "d")
    assert "1 of 4 classes have none" in notice(dataset, "rows")[0]
    with pytest.raises(DataError, match=r"`rows` leaves a single class\. Got 1\. Allowed: 4"):
        load_dataset(RunConfig(data=data, rows=1))


def test_labels_that_one_split_lacks(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(10, "abc"))
    dev = write(tmp_path / "d.csv", [*labelled(4, "ab", 100), ("only in dev", "d")])
    test = write(tmp_path / "e.csv", [*labelled(4, "abcd", 200), ("nobody knows", "z"), ("nobody ever", "z")])
    dataset = load_dataset(RunConfig(data=data, dev=dev, test=test))
    assert dataset.task.labels == ("a", "b", "c", "d")
    assert [example.label for example in dataset.splits.test] == ["a", "b", "c", "d", "z", "z"]
    message, count, ids = notice(dataset, "unseen-labels-in-test")
    assert (count, ids) == (3, ("test:4", "test:5", "test:6"))
    assert message == "3 test rows have labels absent from train ('d', 'z'); they are scored as wrong."
    assert notice(dataset, "unseen-labels-in-dev")[1:] == (1, ("dev:5",))
    assert notice(dataset, "classes-missing-in-dev")[:2] == (
        "No dev row has the label 'c'; nothing is measured for it.",
        1,
    )


def test_duplicates_across_given_splits(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(10))
    dev = write(tmp_path / "d.csv", labelled(4, offset=100))
    test = write(tmp_path / "e.csv", [*labelled(4, offset=200), (texts(1)[0].upper(), "b"), *labelled(2, offset=102)])
    dataset = load_dataset(RunConfig(data=data, dev=dev, test=test))
    assert sizes(dataset) == (10, 4, 7)
    assert notice(dataset, "duplicates-across-splits")[1:] == (3, ("test:5", "test:6", "test:7"))


def test_near_duplicates_across_given_splits(tmp_path: Path) -> None:
    near = "my new card has still not arrived at home"
    data = write(tmp_path / "t.csv", [*labelled(40), (near, "a")])
    test = write(tmp_path / "e.csv", [*labelled(4, offset=200), (near + " yet", "a")])
    dataset = load_dataset(RunConfig(data=data, test=test))
    assert notice(dataset, "near-duplicates-across-splits")[1:] == (1, ("test:5",))
    assert "duplicates-across-splits" not in {notice.code for notice in dataset.notices}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_label_of_a_given_split_is_known(tmp_path: Path, split: str) -> None:
    data = write(tmp_path / "t.csv", labelled(40))
    other = write(tmp_path / "other.csv", labelled(6, "01", offset=100))
    with pytest.raises(DataError) as caught:
        load_dataset(RunConfig(data=data, **{split: other}))
    assert str(caught.value) == (
        f"{other}: no {split} row has a label of the training rows. Got '0', '1'. Allowed: 'a', 'b'. "
        f"Write the labels as in {data}."
    )


def mixed(labels: str, groups: str) -> list[tuple[str, str]]:
    """Rows of which those of one group are near duplicates: they differ in a number alone."""
    return [
        (f"{WORDS[int(group)]} {WORDS[int(group) + 8]} is what I ask about in letter {place}", label)
        for place, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_that_leave_train_without_a_class(tmp_path: Path, seed: int) -> None:
    """Every class has two groups for two splits, and yet no choice of sides was found that serves all."""
    data = write(tmp_path / "t.csv", mixed("debbacaeccdd", "000111222222"))
    dev = write(tmp_path / "d.csv", labelled(10, "abcde"))
    with pytest.raises(DataError, match=r"t\.csv: the split left no training row for class '.*Needed: one") as caught:
        load_dataset(RunConfig(data=data, dev=dev, seed=seed))
    assert "\n" not in str(caught.value)


def test_near_duplicates_that_leave_dev_without_a_class(tmp_path: Path) -> None:
    """Three groups, two of the three classes in each: the split of one group lacks a class, and it is not train."""
    data = write(tmp_path / "t.csv", mixed("caabbcb", "0011122"))
    test = write(tmp_path / "e.csv", labelled(9, "abc"))
    dataset = load_dataset(RunConfig(data=data, test=test))
    assert {example.label for example in dataset.splits.train} == set(dataset.task.labels) == {"a", "b", "c"}
    [lacking] = {"a", "b", "c"} - {example.label for example in dataset.splits.dev}
    assert notice(dataset, "classes-missing-in-dev")[0].startswith(f"No dev row has the label '{lacking}'")


def test_pairs(tmp_path: Path) -> None:
    file = tmp_path / "nli.jsonl"
    rows = [{"premise": one, "hypothesis": f"{one} too", "label": place % 3} for place, one in enumerate(texts(60))]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    dataset = load_dataset(RunConfig(data=str(file)))
    assert dataset.task.paired
    assert dataset.task.labels == ("0", "1", "2")
    first = next(example for example in dataset.splits.train)
    row = rows[int(first.id.removeprefix("nli:")) - 1]
    assert first == Example(
        id=first.id, text=str(row["premise"]), text_pair=str(row["hypothesis"]), label=str(row["label"])
    )


def test_hash_is_of_everything_in_order(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(40))
    dataset, again = load_dataset(RunConfig(data=data)), load_dataset(RunConfig(data=data))
    lines = [
        json.dumps([name, example.id, example.text, example.text_pair, example.label])
        for name in ("train", "dev", "test")
        for example in getattr(dataset.splits, name)
    ]
    assert dataset.sha256 == hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    assert again == dataset
    assert load_dataset(RunConfig(data=data, seed=1)).sha256 != dataset.sha256


def test_hash_of_test_is_of_what_is_judged(tmp_path: Path) -> None:
    rows = labelled(12, offset=200)
    data = write(tmp_path / "t.csv", labelled(40))

    def judged(name: str, test: list[tuple[str, str]], seed: int = 0) -> str:
        return hash_of_test(load_dataset(RunConfig(data=data, test=write(tmp_path / name, test), seed=seed)))

    lines = sorted(json.dumps([text, None, label]) for text, label in rows)
    mine = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert judged("e.csv", rows) == judged("renamed.csv", rows[::-1], seed=1) == mine
    assert judged("f.csv", rows[1:]) != mine
    assert judged("g.csv", [(rows[0][0], "b"), *rows[1:]]) != mine
    assert judged("h.csv", [*rows, rows[0]]) != mine


def test_empty_rows_are_said_and_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", [("", ""), *labelled(40), ("", ""), (" ", "")])
    dataset = load_dataset(RunConfig(data=data))
    assert sum(sizes(dataset)) == 40
    assert min(int(row.id.removeprefix("t:")) for row in (*dataset.splits.train, *dataset.splits.test)) >= 2
    assert notice(dataset, "empty-rows")[:2] == ("3 rows are empty in all columns and left out.", 3)
    data = write(tmp_path / "u.csv", [("", ""), *labelled(40), ("", "a")])
    with pytest.raises(DataError, match=r"missing texts in column 'message': 1 of 41 rows \(row 42\)"):
        load_dataset(RunConfig(data=data))


def test_a_class_of_one_template_is_split_by_exact_duplicates(tmp_path: Path) -> None:
    template = "Card payment {} to {} stands twice on the account statement of last June and nobody here ordered it"
    card = [(template.format(1000 + k, WORDS[k % 16]), "card") for k in range(60)]
    rows = [*card, (card[0][0].upper() + "!", "card"), *labelled(60, "ab")]
    dataset = load_dataset(RunConfig(data=write(tmp_path / "t.csv", rows)))
    message, count, _ = notice(dataset, "near-duplicates-not-grouped")
    assert message.startswith("Near duplicates were not kept in one split, as class 'card' has hardly any other texts")
    assert "flatter" in message
    assert 57 < count < 60
    assert [notice.code for notice in dataset.notices if notice.code == "near-duplicates"] == []
    splits = (dataset.splits.train, dataset.splits.dev, dataset.splits.test)
    assert [sum(row.label == "card" for row in split) for split in splits] == [43, 6, 12]
    assert sum({"t:1", "t:61"} <= {row.id for row in split} for split in splits) == 1


@pytest.mark.parametrize("described", [False, True])
@pytest.mark.parametrize(("labels", "meaningless"), [("012", True), ("01a", False)])
def test_labels_without_words(tmp_path: Path, labels: str, *, meaningless: bool, described: bool) -> None:
    words = tmp_path / "words.yaml"
    words.write_text("".join(f"'{label}': what {label} means\n" for label in labels), encoding="utf-8")
    data = write(tmp_path / "t.csv", labelled(60, labels))
    dataset = load_dataset(RunConfig(data=data, descriptions=str(words) if described else None))
    assert ("meaningless-labels" in {notice.code for notice in dataset.notices}) == (meaningless and not described)
    if meaningless and not described:
        message, count, _ = notice(dataset, "meaningless-labels")
        assert (count, "('0', '1', '2')" in message, "--descriptions" in message) == (3, True, True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (labelled(20, "a"), r"only one class in the training rows: 'a'"),
        (
            [*labelled(20), ("rare one", "c"), ("rare two", "c")],
            r"class 'c' has 2 rows; need 3, one each for train, dev, test",
        ),
        ([*labelled(20), *[("always the same", "c")] * 9], r"class 'c' has 9 rows but only 1 different text; need 3"),
        ([*labelled(20), ("", "a")], r"missing texts in column 'message': 1 of 21 rows \(row 21\)"),
        ([*labelled(20), ("no label", "")], r"missing labels in column 'intent': 1 of 21 rows \(row 21\)"),
        ([(text, f"{place / 4}") for place, text in enumerate(texts(20))], r"labels are floats, such as 0\.0"),
        ([(text, str(place % 101)) for place, text in enumerate(texts(303))], r"101 distinct integers as labels"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(RunConfig(data=write(tmp_path / "t.csv", rows)))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_given_file_without_the_column(tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", labelled(20))
    other = tmp_path / "e.csv"
    other.write_text("msg,intent\nx,a\n")
    with pytest.raises(DataError, match=r"e\.csv: unknown column 'message'\..*Allowed: msg, intent"):
        load_dataset(RunConfig(data=data, test=str(other)))
