"""Which values are class names, their order and their words."""

import re
from pathlib import Path

import pytest

from tunewright.data.labels import check_labels, describe, error_costs, in_words, label_order
from tunewright.errors import ConfigError, DataError
from tunewright.types import Example


def rows(*labels: str) -> list[Example]:
    return [Example(id=f"t:{number}", text="x", label=label) for number, label in enumerate(labels, 1)]


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b"],
        ["0", "1"],
        ["-1", "+1"],
        [str(n) for n in range(100)],
        ["1.5", "other"],
        [f"c{n}" for n in range(150)],
    ],
)
def test_class_names(labels: list[str]) -> None:
    check_labels(rows(*labels), "t.csv")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["1", "2.5", "1"], r"t\.csv: labels are floats, such as 2\.5\. Allowed: class names or integers\. .*--label"),
        (["1e-3", "inf"], r"labels are floats, such as 1e-3"),
        (["1.0", "0.0"], r"labels are floats, such as 1\.0"),
        ([str(n) for n in range(101)], r"101 distinct integers as labels: .*at most 100\. .*--label"),
        (["a", "a"], r"only one class in the training rows: 'a'\. At least two"),
    ],
)
def test_no_class_names(labels: list[str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_labels(rows(*labels), "t.csv")
    assert re.search(message, str(caught.value))


def test_order() -> None:
    assert label_order(["b", "a", "b", "C"]) == ("C", "a", "b")
    assert label_order(["10", "9", "-1", "10"]) == ("-1", "9", "10")
    assert label_order(["10", "9", "x"]) == ("10", "9", "x")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("card_arrival", "card arrival"),
        ("cardArrival", "card arrival"),
        ("Card-Arrival", "card arrival"),
        ("ATMWithdrawal", "ATM withdrawal"),
        ("NUM", "NUM"),
        ("world/politics", "world politics"),
        ("pin2Change", "pin2 change"),
        ("Kündigung", "kündigung"),
        ("--", "--"),
        ("3", "3"),
    ],
)
def test_in_words(label: str, words: str) -> None:
    assert in_words(label) == words


def test_descriptions_by_default_and_from_yaml(tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("no: says no\n01: first \nonly_in_test: rare\n")
    assert describe(["card_arrival", "x"], None) == {"card_arrival": "card arrival", "x": "x"}
    described = describe(["01", "no"], str(file), also_known={"only_in_test"})
    assert list(described.items()) == [("01", "first"), ("no", "says no")]


def test_all_faults_of_the_descriptions_at_once(tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("refnd: money back\ncancel: ''\nother: [a, b]\n")
    with pytest.raises(ConfigError) as caught:
        describe(["cancel", "other", "refund"], str(file))
    faults = caught.value.faults
    expected = [
        r"unknown label 'refnd'\. Did you mean 'refund'\?",
        r"no description of refund\. Add a line `refund: ",
        r"description of 'cancel' must be a few words\. Got ''",
        r"description of 'other' must be a few words\. Got \['a', 'b'\]",
    ]
    assert len(faults) == len(expected)
    for fault, pattern in zip(faults, expected, strict=True):
        assert re.search(pattern, fault)


def test_error_costs(tmp_path: Path) -> None:
    """True label -> answer -> cost; what is not said is 1 for an error and 0 else. Labels stay as they are written."""
    file = tmp_path / "c.yaml"
    file.write_text("no:\n  01: 10\n  no: 0.5\n01: {no: 2e-1}\nnew: {no: 3}\n", encoding="utf-8")
    found = error_costs(("01", "no", "x"), str(file), also_known={"new"})
    assert found.tolist() == [[0.0, 0.2, 1.0], [10.0, 0.5, 1.0], [1.0, 1.0, 0.0]]


def test_all_faults_of_error_costs_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("foot: {music: 2}\nmusic: {fod: 2, food: -1, music: much}\nfood: 3\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        error_costs(("food", "music"), str(file))
    expected = [
        "unknown label 'foot'. Did you mean 'food'? Allowed: food, music.",
        "unknown answer 'fod'. Did you mean 'food'?",
        "the cost of 'food' for 'music' must be a number from 0 on. Got '-1'.",
        "the cost of 'music' for 'music' must be a number from 0 on. Got 'much'.",
        "'food' must hold `answer: cost` lines. Got '3'.",
    ]
    assert len(caught.value.faults) == len(expected)
    for fault, phrase in zip(caught.value.faults, expected, strict=True):
        assert phrase in fault
        assert fault.startswith(f"{file}: ")


@pytest.mark.parametrize("text", ["{}", "food: {music: 1}\n", "food: {food: 0}\n"])
def test_error_costs_without_effect(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="makes all errors cost the same"):
        error_costs(("food", "music"), str(file))
