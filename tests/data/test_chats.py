"""Conversations: which columns are some, what is wrong with them, their plain form and the reply at their end."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.commands import write_table
from tunewright.cli.rows import read_examples
from tunewright.config import load_config
from tunewright.data.chats import with_reply
from tunewright.data.load import load_dataset
from tunewright.data.swaps import swapped_rows
from tunewright.data.tables import read_table
from tunewright.errors import DataError
from tunewright.types import Dataset


def message(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def chat(k: int) -> list[dict[str, object]]:
    return [message("system", "Be brief."), message("user", f"say he{k}"), message("assistant", f"word {k}")]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """In the format of its ending."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        cells = [[v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows]
        write_table(path, list(rows[0]), cells)
    return path


ENDED = [{"messages": chat(k)} for k in range(40)]


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(load_config(None, {"data": str(path), **settings}))


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_what_an_assistant_says_last_is_the_target(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"chats.{ending}", [{"messages": chat(k)} for k in range(40)])
    data = load(path, task="generate")
    assert data.columns == {"text": "messages", "target": "reply"}
    every = {row.id: row for rows in (data.splits.train, data.splits.dev, data.splits.test) for row in rows}
    assert len(every) == 40
    for k in range(40):
        row = every[f"chats:{k + 1}"]
        assert (row.text, row.target) == (f"System: Be brief.\nUser: say he{k}", f"word {k}")
        assert row.messages == (("system", "Be brief."), ("user", f"say he{k}"))


def test_labels_are_of_whole_conversations(tmp_path: Path) -> None:
    """Under any name; a single message of the user is its text. Swapped terms are swapped in what a model is told."""
    rows = [{"talk": chat(k) if k % 2 else chat(k)[1:2], "label": "ab"[k % 2]} for k in range(40)]
    data = load(write(tmp_path / "c.jsonl", rows), text="talk")
    every = {row.id: row for row in (*data.splits.train, *data.splits.dev, *data.splits.test)}
    assert (every["c:1"].text, every["c:1"].messages) == ("say he0", (("user", "say he0"),))
    assert every["c:2"].text == "System: Be brief.\nUser: say he1\nAssistant: word 1"
    (tmp_path / "swap.txt").write_text("word, term\n", encoding="utf-8")
    (tmp_path / "swap.yaml").write_text("- [word, term]\n", encoding="utf-8")
    (swapped,) = swapped_rows(str(tmp_path / "swap.yaml"), [every["c:2"]])
    assert swapped.rows[0].messages[-1] == ("assistant", "term 1")
    (tmp_path / "swap.yaml").write_text("- [user, brief]\n- [system, term]\n", encoding="utf-8")
    changed, unchanged = swapped_rows(str(tmp_path / "swap.yaml"), [every["c:2"]])
    assert changed.rows[0].text == "System: Be user.\nUser: say he1\nAssistant: word 1", "roles are no words of it"
    assert unchanged.rows == ()


def test_the_same_text_as_a_conversation_is_other_data(tmp_path: Path) -> None:
    """A run is not resumed from the one to the other; data without conversations keep their hash."""
    plain = load(write(tmp_path / "c.jsonl", [{"text": f"say he{k}", "label": "ab"[k % 2]} for k in range(40)]))
    rows = [{"text": [message("user", f"say he{k}")], "label": "ab"[k % 2]} for k in range(40)]
    chats = load(write(tmp_path / "c.jsonl", rows))
    assert [row.text for row in plain.splits.test] == [row.text for row in chats.splits.test]
    assert plain.sha256 != chats.sha256


def test_a_list_as_python_writes_it_is_no_text(tmp_path: Path) -> None:
    """As `to_csv` of pandas leaves conversations; under the name of messages alone is it one."""
    rows = [{"messages": repr(chat(k)), "label": "ab"[k % 2]} for k in range(10)]
    with pytest.raises(DataError, match=r"row 1, column 'messages': no JSON, .* \(10 such rows in all\)"):
        load(write(tmp_path / "c.csv", rows))


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("hello", "no JSON, 'hello'"),
        ({"role": "user", "content": "x"}, "no messages, "),
        ([], "no messages, '[]'"),
        (["x"], "message 1 has role None"),
        ([message("user", "x"), message("robot", "y")], "message 2 has role 'robot'"),
        ([{"content": "x"}], "message 1 has role None"),
        ([message("user", None)], "message 1 has content None"),
        ([message("user", " ")], "message 1 has content ' '"),
        ([message("user", [{"type": "image"}])], "message 1 has content [{'type': 'image'}]"),
    ],
)
@pytest.mark.parametrize("rows", [(3, 7), (0, 7)])
def test_malformed_messages(rows: tuple[int, int], cell: object, fault: str, tmp_path: Path) -> None:
    """The row, what is wrong, how many, what is allowed; in the first row too."""
    table = [{"messages": cell if k in rows else chat(k), "label": "ab"[k % 2]} for k in range(10)]
    path = write(tmp_path / "c.jsonl", table)
    with pytest.raises(DataError) as failed:
        load(path)
    where = f"{path}, row {rows[0] + 1}, column 'messages': "
    todo = 'Allowed: a list of {"role": system or user or assistant, "content": a text}. Mend or remove these rows.'
    assert str(failed.value).startswith(where)
    assert str(failed.value).endswith(f" (2 such rows in all). {todo}")
    assert fault in str(failed.value)


@pytest.mark.parametrize("text", ['[{"a": 1}]', "[1, 2]", "[not json", "plain"])
def test_texts_that_are_json_stay_texts(text: str, tmp_path: Path) -> None:
    rows = [{"text": f"{text}", "label": "ab"[k % 2], "k": k} for k in range(40)]
    rows = [{**row, "text": row["text"] if k < 2 else f"{text} {k}"} for k, row in enumerate(rows)]
    data = load(write(tmp_path / "t.jsonl", rows))
    every = {row.id: row for row in (*data.splits.train, *data.splits.dev, *data.splits.test)}
    assert (every["t:1"].text, every["t:1"].messages) == (text, ())


def test_a_table_with_a_target_of_its_own_keeps_its_conversations(tmp_path: Path) -> None:
    table = read_table(str(write(tmp_path / "c.jsonl", [{"messages": chat(k), "answer": "x"} for k in range(3)])))
    assert with_reply(table, None, ("answer",)) is table
    open_ended = read_table(str(write(tmp_path / "d.jsonl", [{"messages": chat(k)[:2]} for k in range(2)])))
    assert with_reply(open_ended, None, ()) is open_ended
    path = write(tmp_path / "e.jsonl", [{"messages": chat(k)[: 2 if k == 30 else 3]} for k in range(40)])
    with pytest.raises(DataError, match=r"e.jsonl, row 31, column 'messages': no assistant.* \(1 of 40 rows\)"):
        load(path, task="generate")
    own = [{"messages": chat(k), "reply": f"own {k}"} for k in range(40)]
    assert [load(write(tmp_path / "f.jsonl", rows), task="generate").is_reply for rows in (own, ENDED)] == [False, True]
    asked = [{"messages": chat(0)}]
    for more, expected in (({}, chat(0)), ({"reply_behind": True}, chat(0)[:2])):
        about = {"columns": {"text": "messages", "target": "reply"}, "messages": True, **more}
        _, (row,) = read_examples(str(write(tmp_path / "g.jsonl", asked)), about, {"text": None})
        assert [message(*each) for each in row.messages] == expected, "stripped of what was the target alone"
    split = with_reply(table, None, ())
    assert [row["reply"] for row in split.rows] == ["word 0", "word 1", "word 2"]
    assert json.loads(str(split.rows[1]["messages"])) == chat(1)[:2]
