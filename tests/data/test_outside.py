"""Answers of anything else: how a file names its rows and its answers, and every fault of it at once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.commands import write_table
from tunewright.data.chats import plain_text
from tunewright.data.outside import answers_sha256, named_files, read_outside
from tunewright.errors import ConfigError
from tunewright.types import Example, Prediction, Task

LABELS = ("food", "music", "travel")
TASK = Task(name="topics", labels=LABELS, descriptions={})
COLUMNS = {"text": "message", "label": "topic"}
ROWS = (
    Example(id="d:2", text="fresh  bread", label="food"),
    Example(id="d:5", text="a slow train", label="travel"),
    Example(id="d:9", text="an old song", label="music"),
)
RIGHT = ("food", "travel", "travel")
CHANCES = ((0.5, 0.2, 0.3), (0.1, 0.1, 0.8), (0.25, 0.5, 0.25))


def read(path: Path, rows: Sequence[Example] = ROWS, columns: Mapping[str, str] = COLUMNS) -> tuple[Prediction, ...]:
    return read_outside({"today": str(path)}, rows, TASK, columns)["today"]


def faults(path: Path, rows: Sequence[Example] = ROWS) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        read(path, rows)
    assert all(str(path) in fault and "\n" not in fault for fault in error.value.faults)
    return error.value.faults


def table(folder: Path, columns: Sequence[str], *rows: Sequence[str]) -> Path:
    return write_table(folder / "answers.csv", columns, rows)


def test_answers_with_several_labels(tmp_path: Path) -> None:
    """As the data writes them, as a list, as `predict` writes them; an empty cell answers that there is none."""
    task = replace(TASK, kind="multi-label")
    cells = ("travel ; food", '["music", "food"]', "food|travel", "")
    rows = [Example(id=str(k), text=f"row {k}", label="food") for k in range(len(cells))]
    lines = [(row.text, cell, "0.9") for row, cell in zip(rows, cells, strict=True)]
    path = table(tmp_path, ("message", "predicted", "p_food"), *lines)
    found = read_outside({"today": str(path)}, rows, task, COLUMNS, ";")["today"]
    assert [each.label for each in found] == ["food|travel", "food|music", "food|travel", ""]
    assert {each.probabilities for each in found} == {()}

    path = table(tmp_path, ("message", "predicted"), ("row 0", "food; cars"), ("row 1", "["))
    with pytest.raises(ConfigError, match="labels of row 1 are no list"):
        read_outside({"today": str(path)}, rows, task, COLUMNS, ";")
    path = table(tmp_path, ("message", "predicted"), ("row 0", "food; cars"), ("row 1", "food"))
    with pytest.raises(ConfigError) as error:
        read_outside({"today": str(path)}, rows, task, COLUMNS, ";")
    assert "2 of 4 test rows have no answer (first: 2, 3)" in str(error.value)
    assert "1 of 4 test rows have an answer that is no label of the task (first: 0): 'cars|food'" in str(error.value)


def test_a_label_that_holds_the_separator_is_one(tmp_path: Path) -> None:
    labels = ("New York, NY", "Rome", "a;b")
    task = replace(TASK, kind="multi-label", labels=labels)
    rows = [Example(id=str(k), text=f"row {k}", label="Rome") for k in range(4)]
    cells = (*labels, "New York, NY|Rome")
    path = table(tmp_path, ("id", "predicted"), *[(str(k), cell) for k, cell in enumerate(cells)])
    assert [each.label for each in read_outside({"today": str(path)}, rows, task, COLUMNS)["today"]] == [*cells]


@pytest.mark.parametrize("is_replied", [False, True])
def test_conversations_are_named_by_their_column(is_replied: bool, tmp_path: Path) -> None:
    """As the data or `predict` write them: with the reply that is asked for, or without."""
    chats = [[("system", "Be brief."), ("user", f"say  {k}")] for k in range(3)]
    rows = [Example(id=f"d:{k}", text=plain_text(tuple(c)), messages=tuple(c)) for k, c in enumerate(chats)]
    said = [[*chat, ("assistant", f"word {k}")][: 2 + is_replied] for k, chat in enumerate(chats)]
    cells = [json.dumps([{"content": text, "role": role} for role, text in chat], indent=1) for chat in said]
    path = table(tmp_path, ("messages", "predicted"), *[(cell, f"a{k}") for k, cell in enumerate(cells)])
    task = Task(name="t", labels=(), descriptions={}, kind="generate")
    found = read_outside({"today": str(path)}, rows, task, {"text": "messages", "target": "reply"})["today"]
    assert [(each.id, each.text) for each in found] == [(f"d:{k}", f"a{k}") for k in range(3)]


def test_answers_are_texts_of_candidates(tmp_path: Path) -> None:
    task = Task(name="t", labels=("1", "2"), descriptions={}, kind="choose")
    rows = [Example(id=str(k), text=f"row {k}", label="1", choices=("it rained", f"{k}")) for k in (1, 2)]
    path = table(tmp_path, ("id", "predicted", "p_a", "p_b"), ("1", "1", ".1", ".9"), ("2", "it rained", ".6", ".4"))
    found = read_outside({"today": str(path)}, rows, task, COLUMNS)["today"]
    assert [each.label for each in found] == ["2", "1"]
    path = table(tmp_path, ("id", "predicted"), ("1", "1"), ("2", "1"))
    with pytest.raises(ConfigError, match=r"no candidate of the row \(first: 2\): '1'. Allowed: the text of one"):
        read_outside({"today": str(path)}, rows, task, COLUMNS)


def test_one_label_is_no_set(tmp_path: Path) -> None:
    lines = [(row.id, answer) for row, answer in zip(ROWS, ("food|music", "travel", "music"), strict=True)]
    (fault,) = faults(table(tmp_path, ("id", "predicted"), *lines))
    assert "no label of the task (first: d:2): 'food|music'" in fault


# --- which row, which answer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["predicted", "prediction", "Answer", "gpt"])
def test_rows_by_id_in_any_order_and_answers_by_name_or_alone(tmp_path: Path, column: str) -> None:
    lines = [(row.id, "a text of test.jsonl", "food", answer) for row, answer in zip(ROWS, RIGHT, strict=True)]
    found = read(table(tmp_path, ("id", "text", "label", column), *reversed(lines)))
    assert found == tuple(
        Prediction(id=row.id, label=answer, probabilities=()) for row, answer in zip(ROWS, RIGHT, strict=True)
    )


def test_rows_by_text_but_for_white_space_with_the_whole_file_answered(tmp_path: Path) -> None:
    lines = [
        ("fresh bread ", "food"),
        ("a train row", "nonsense"),
        ("a\tslow train", "travel"),
        ("an old song", "music"),
    ]
    for column in ("message", "text"):  # as in the data, and as in test.jsonl
        found = read(table(tmp_path, (column, "predicted"), *lines, ("fresh  bread", "food")))
        assert [each.label for each in found] == ["food", "travel", "music"]
        assert [each.id for each in found] == [row.id for row in ROWS]


def test_an_id_column_of_the_users_own_does_not_hide_the_texts(tmp_path: Path) -> None:
    lines = [(str(k), row.text, answer) for k, (row, answer) in enumerate(zip(ROWS, RIGHT, strict=True))]
    assert [each.label for each in read(table(tmp_path, ("id", "message", "predicted"), *lines))] == list(RIGHT)


def test_pairs_of_texts_are_told_apart_by_both(tmp_path: Path) -> None:
    rows = [replace(ROWS[0], text_pair=pair, id=pair) for pair in ("x", "y")]
    columns = {"text": "premise", "text_pair": "hypothesis", "label": "topic"}
    lines = [("fresh bread", "y", "music"), ("fresh bread", "x", "food")]
    found = read(table(tmp_path, ("premise", "hypothesis", "predicted"), *lines), rows, columns)
    assert [each.label for each in found] == ["food", "music"]


def test_one_answer_serves_all_test_rows_of_its_text(tmp_path: Path) -> None:
    rows = (*ROWS, replace(ROWS[0], id="d:11", text="fresh bread"))
    lines = [(row.text, answer) for row, answer in zip(ROWS, RIGHT, strict=True)]
    assert [each.label for each in read(table(tmp_path, ("message", "predicted"), *lines), rows)] == [*RIGHT, "food"]


@pytest.mark.parametrize("ending", ["tsv", "jsonl"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"answers.{ending}"
    records = [{"id": row.id, "predicted": answer} for row, answer in zip(ROWS, RIGHT, strict=True)]
    lines = [json.dumps(record) for record in records]
    if ending == "tsv":
        lines = ["id\tpredicted", *("\t".join(record.values()) for record in records)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [each.label for each in read(file)] == list(RIGHT)


def test_probabilities_are_in_the_order_of_the_labels_and_sum_to_one(tmp_path: Path) -> None:
    columns = ("id", "predicted", "p_travel", "p_food", "p_music")
    lines = [
        (row.id, answer, f"{p[2]}", f"{p[0]}", f"{p[1] + 0.004}")
        for row, answer, p in zip(ROWS, RIGHT, CHANCES, strict=True)
    ]
    found = read(table(tmp_path, columns, *lines))
    for each, (food, music, travel) in zip(found, CHANCES, strict=True):
        expected = [food / 1.004, (music + 0.004) / 1.004, travel / 1.004]
        assert each.probabilities == pytest.approx(expected, abs=1e-12)


# --- faults -----------------------------------------------------------------------------------------------------------


def test_all_faults_of_all_files_at_once(tmp_path: Path) -> None:
    lines = [("d:2", "food"), ("d:2", "music"), ("d:5", "planes"), ("d:77", "food"), ("d:9", " ")]
    bad = table(tmp_path, ("id", "predicted"), *lines)
    with pytest.raises(ConfigError) as error:
        read_outside({"bad": str(bad), "none": str(tmp_path / "no.csv")}, ROWS, TASK, COLUMNS)
    missing, differ, unknown, strange, no_file = error.value.faults
    assert "1 of 3 test rows have no answer (first: d:9)" in missing
    assert "the most common label" in missing
    assert "1 of 3 test rows have answers that differ (first: d:2)" in differ
    assert "1 id is of no test row (first: d:77)" in unknown
    assert "1 of 3 test rows have an answer that is no label of the task (first: d:5): 'planes'" in strange
    assert "Allowed: 'food', 'music', 'travel'" in strange
    assert "no such file" in no_file


def test_which_column_is_the_answer_is_asked(tmp_path: Path) -> None:
    two = [(row.id, "food", "music") for row in ROWS]
    (fault,) = faults(table(tmp_path, ("id", "gpt", "rule"), *two))
    assert "which column is the answer? Got 'gpt', 'id', 'rule'" in fault
    assert "Name it `predicted`" in fault


@pytest.mark.parametrize("second", ["predicted_", "Answer", "predicted__"])
def test_two_answers_are_refused_and_either_alone_is_read(second: str, tmp_path: Path) -> None:
    """Of a file that `predict` answered twice, the first answers are not those of the second model."""
    both = [(row.id, "food", answer) for row, answer in zip(ROWS, RIGHT, strict=True)]
    (fault,) = faults(table(tmp_path, ("id", "predicted", second), *both))
    names = ", ".join(map(repr, sorted(("predicted", second))))
    assert f"several columns are answers. Got {names}. Allowed: one. Keep one of them" in fault
    for column in (second, "gpt"):
        found = read(table(tmp_path, ("id", column, "p_x"), *[(row, answer, "") for row, _, answer in both]))
        assert [each.label for each in found] == list(RIGHT)


def test_probabilities_of_two_answers_are_not_mixed(tmp_path: Path) -> None:
    own, again = [f"p_{label}" for label in LABELS], [f"p_{label}_" for label in LABELS]
    lines = [(row.id, "food", *("0.5", "0.2", "0.3") * 2) for row in ROWS]
    for columns in (("id", "predicted_", *own, *again), ("id", "predicted_", *again)):
        (fault,) = faults(table(tmp_path, columns, *[line[: len(columns)] for line in lines]))
        assert "probabilities of a second answer: 'p_food_', 'p_music_', 'p_travel_'. Keep those of one answer" in fault


def test_true_labels_are_no_answers(tmp_path: Path) -> None:
    """The data itself, given by mistake, is not a candidate that is always right."""
    lines = [(row.text, str(row.label)) for row in ROWS]
    (fault,) = faults(table(tmp_path, ("message", "topic"), *lines))
    assert "which column is the answer?" in fault


def test_a_file_that_names_no_rows(tmp_path: Path) -> None:
    (fault,) = faults(table(tmp_path, ("predicted",), ("food",)))
    assert "no column names the rows" in fault
    assert "`id`, as in test.jsonl of a run folder, or `message`, as in the data" in fault


def test_probabilities_of_some_labels_or_that_are_none(tmp_path: Path) -> None:
    some = [(row.id, "food", "1") for row in ROWS]
    (fault,) = faults(table(tmp_path, ("id", "predicted", "p_food"), *some))
    assert "no column 'p_music', 'p_travel'" in fault
    columns = ("id", "predicted", "p_food", "p_music", "p_travel")
    wrong = [("d:2", "food", "1", "0", "0"), ("d:5", "food", "0.9", "0.9", "-0.8"), ("d:9", "food", "high", "0", "0")]
    (fault,) = faults(table(tmp_path, columns, *wrong))
    assert "the probabilities of 2 test rows are not from 0 to 1 with a sum of 1 (first: d:5, d:9)." in fault


def test_names_that_cannot_be() -> None:
    given = ["today", "../up=f.csv", "LORA=f.csv", "a=f.csv", "A=g.csv", ".hidden=f.csv", "fine=x=y.csv"]
    with pytest.raises(ConfigError) as error:
        named_files(given, ("lora", "full"))
    found = error.value.faults
    assert len(found) == 5
    assert "NAME=FILE. Got 'today'" in found[0]
    assert "'../up' is no safe folder name" in found[1]
    assert "'LORA' is taken" in found[2]
    assert "'A' is taken" in found[3]
    assert "'.hidden' is no safe folder name" in found[4]
    assert named_files(["fine=x=y.csv", "b = c.csv"], ()) == {"fine": "x=y.csv", "b": "c.csv"}


def test_hash_is_of_the_answers() -> None:
    one = Prediction(id="d:2", label="food", probabilities=())
    assert answers_sha256([one]) == answers_sha256([replace(one)])
    changed = [replace(one, label="music"), replace(one, id="d:3"), replace(one, probabilities=(1.0, 0.0, 0.0))]
    assert len({answers_sha256([each]) for each in (one, *changed)}) == 4
