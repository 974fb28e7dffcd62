"""Files in, tables of strings out; each bad file is one line that says what, where and what to do."""

import csv
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.data.formats import parse_tsv
from tunewright.data.tables import MAX_CELL_CHARACTERS, empty_rows, read_table
from tunewright.errors import DataError

ROWS = [
    {"text": 'say "hi", then', "label": "a"},
    {"text": "two\nlines", "label": "b"},
    {"text": "Grüße \U0001f600", "label": "a"},
]


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def fault(path: str) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'text,label\n"say ""hi"", then",a\n"two\nlines",b\nGrüße \U0001f600,a\n'),
        ("bom.csv", '\ufefftext,label\r\n"say ""hi"", then",a\r\n"two\nlines",b\r\n\r\nGrüße \U0001f600,a'),
        ("semicolon.csv", 'text;label\n"say ""hi"", then";a\n"two\nlines";b\nGrüße \U0001f600;a\n'),
        ("t.TSV", 'text\tlabel\n"say ""hi"", then"\ta\n"two\nlines"\tb\nGrüße \U0001f600\ta\n'),
        ("t.jsonl", "\n\n".join(json.dumps(row) for row in ROWS)),
    ],
)
def test_text_formats_give_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    table = read_table(write(tmp_path, name, content))
    assert table.columns == ("text", "label")
    assert list(table.rows) == ROWS
    assert table.name == name.partition(".")[0]


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    table = read_table(str(path))
    assert table.columns == ("text", "label")
    assert list(table.rows) == ROWS


def test_typed_values_become_what_a_csv_would_hold(tmp_path: Path) -> None:
    lines = '{"a": 1, "b": 1.5, "c": true}\n{"a": null, "b": NaN, "d": ["x", {"y": 2}]}\n'
    table = read_table(write(tmp_path, "t.jsonl", lines))
    assert table.columns == ("a", "b", "c", "d")
    assert table.rows[0] == {"a": "1", "b": "1.5", "c": "true", "d": None}
    assert table.rows[1] == {"a": None, "b": "nan", "c": None, "d": '["x", {"y": 2}]'}


def test_tsv_with_quotes_as_plain_characters(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.tsv", 'text\tlabel\n"hi" he said\ta\nso "what\tb\n'))
    assert [row["text"] for row in table.rows] == ['"hi" he said', 'so "what']


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        # As GLUE writes: a quote that opens one text and closes in another holds nothing together.
        ('text\tlabel\n"hello there\tpos\ngood bye"\tneg\n', ['"hello there', 'good bye"']),
        ('label\ttext\npos\t"hello there\n\nneg\tgood bye"\nneg\tso\n', ['"hello there', 'good bye"', "so"]),
        # As exports write: a cell with a tab, or of several lines, in quotes.
        ('text\tlabel\n"one\ttwo"\tpos\n"one\n\ntwo"\tneg\n', ["one\ttwo", "one\n\ntwo"]),
        ('"text"\t"label"\r\n"one\ttwo\r\nthree"\t"pos"\r\n', ["one\ttwo\r\nthree"]),
        ('"text"\n"one\ntwo"\n', ["one\ntwo"]),
    ],
)
def test_quotes_in_a_tsv_hold_cells_together_but_never_rows(tmp_path: Path, content: str, texts: list[str]) -> None:
    assert [row["text"] for row in read_table(write(tmp_path, "t.tsv", content)).rows] == texts


@given(st.lists(st.sampled_from(['"', '"a', 'a"', 'a "b" c', '"a"', "", "b"]), min_size=1))
def test_a_tsv_without_quoting_keeps_its_rows(texts: list[str]) -> None:
    _, rows = parse_tsv("text\tlabel\n" + "".join(f"{text}\t{place}\n" for place, text in enumerate(texts)), "t.tsv")
    assert [row["label"] for row in rows] == [str(place) for place in range(len(texts))]


@given(st.lists(st.text('ab" \n'), min_size=1), st.sampled_from(["\n", "\r\n"]))
def test_a_quoted_tsv_is_read_as_written(texts: list[str], end: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", lineterminator=end).writerows(
        [("text", "label"), *((text, "a") for text in texts)]
    )
    _, rows = parse_tsv(file.getvalue(), "t.tsv")
    assert [row["text"] for row in rows] == texts


def test_index_written_by_pandas_is_a_column_not_a_missing_header(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", ",text,label\n0,x,a\n1,y,b\n"))
    assert table.columns == ("", "text", "label")


def test_a_column_may_be_called_like_nothing_in_use(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "Wie zufrieden sind Sie?,Urteil\ngut,a\nschlecht,b\n"))
    assert table.columns == ("Wie zufrieden sind Sie?", "Urteil")


def test_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "tickets.csv", "text,label\nx,a\n")
    assert re.search(
        r"no such file: .*ticket\.csv\. Did you mean .*tickets\.csv\?", fault(str(tmp_path / "ticket.csv"))
    )
    assert "There is no folder" in fault(str(tmp_path / "nowhere" / "t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", r"t\.csv is empty"),
        ("t.jsonl", b"\xef\xbb\xbf \n\n", r"t\.jsonl is empty"),
        ("t.csv", b"text,label\n", r"t\.csv has no data rows: only text, label"),
        ("t.xlsx", b"PK", r"got suffix '\.xlsx'\. Allowed: a \.csv, \.tsv, \.jsonl, \.parquet file\. Convert it"),
        (
            "t.csv",
            b"text,label\n\xe9,a\n",
            r"is not UTF-8: byte 11 is 0xe9\. It looks like windows-1252, as 'é,a'\. Save it",
        ),
        ("t.csv", b"\xef\xbb\xbftext,label\n\xe9,a\n", r"is not UTF-8: byte 14 is 0xe9"),
        (
            "t.csv",
            "text,label\nGrüße,a\n".encode("cp1252"),
            r"'Grüße,a'.* iconv -f windows-1252 -t utf-8 \S*t.csv > \S*t-utf8.csv$",
        ),
        ("t.csv", b"text,label\n\xe9\x81,a\n", r"byte 11 is 0xe9\. Save it as UTF-8 \(iconv -f ITS-ENCODING"),
        ("t.csv", "text,label\nx,a\n".encode("utf-16"), r"byte 0 starts UTF-16\. Save it as UTF-8: iconv -f utf-16 "),
        ("t.csv", "text,label\nx,a\n".encode("utf-16-le"), r"it looks like utf-16le, every other byte is 0\. Save it"),
        ("t.csv", "text,label\nx,a\n".encode("utf-16-be"), r"it looks like utf-16be, every other byte is 0\. Save it"),
        ("t.csv", b"text,label\nx\0y,a\n", r"holds a NUL byte at byte 12"),
        ("t.csv", b'text,label\nx,a\n"y\nz",b,c\n', r"t\.csv, line 3: got 3 cells, want 2 as in the header"),
        ("t.tsv", b"text\tlabel\nx\n", r"t\.tsv, line 2: got 1 cells, want 2"),
        ("t.tsv", b'text\nx\n"one\ntwo"\n', r"t\.tsv, line 3: a quote opens here and closes on a later line: one row"),
        ("t.tsv", b'text\tlabel\nx\ta\n"y\ta\nz"\tb\n"v\nw"\tb\n', r"t\.tsv, line 3: a quote opens here"),
        ("t.csv", b'text,label\nx,a\n"never closed,b\nz,a\n', r"t\.csv, line 3: quotes not closed or not doubled"),
        ("t.csv", b"text,,label\nx,y,a\n", r"has no header: cell 2 of the first line is empty\. .*Add a line such as"),
        ("t.csv", b"text,4.5\nx,a\n", r"has no header: cell 2 of the first line is the number 4\.5"),
        ("t.csv", b"I like it,good\nbad one,bad\nfine,good\n", r"has no header: its first line holds 'good', which is"),
        ("t.csv", b"text,text\nx,a\n", r"column 'text' is in the header twice"),
        ("t.jsonl", b'{"text": "x"}\n\n{"text": \n', r"t\.jsonl, line 3: not JSON"),
        ("t.jsonl", b'{"text": "x"}\n["y"]\n', r"t\.jsonl, line 2: got a JSON list, want an object"),
        ("t.jsonl", b'{"text": "\\ud83d"}\n', r"row 1, column 'text': a NUL or half a surrogate pair"),
        ("t.jsonl", b'{"text": "ok"}\n{"text": "\\u0000"}\n', r"row 2, column 'text': a NUL"),
        ("t.parquet", b"text,label\nx,a\n", r"t\.parquet is not a parquet file"),
    ],
)
def test_bad_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    assert re.search(message, fault(write(tmp_path, name, content)))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_ten_megabytes_in_one_cell(tmp_path: Path, name: str) -> None:
    huge = "x" * 10_000_000
    separator = "\t" if name == "t.tsv" else ","
    content = (
        json.dumps({"text": huge}) if name == "t.jsonl" else f"text{separator}label\nok{separator}a\n{huge}{separator}b"
    )
    row = 1 if name == "t.jsonl" else 2
    expected = rf"row {row}, column 'text': a cell of 10000000 characters\. Allowed: at most {MAX_CELL_CHARACTERS}"
    assert re.search(expected, fault(write(tmp_path, name, content)))


def test_a_cell_at_the_limit_is_read(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "text,label\n" + "x" * MAX_CELL_CHARACTERS + ",a\n"))
    assert len(str(table.rows[0]["text"])) == MAX_CELL_CHARACTERS


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    assert re.search(r"cannot read .*t\.csv: got a folder", fault(str(tmp_path / "t.csv")))


def test_empty_rows_are_left_out_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "text,label\nx,a\n , \ny,b\n,\n,\n"))
    assert list(table.numbered()) == [(1, {"text": "x", "label": "a"}), (3, {"text": "y", "label": "b"})]
    [notice] = empty_rows([table, table])
    assert (notice.code, notice.count) == ("empty-rows", 6)
    assert empty_rows([read_table(write(tmp_path, "t.csv", "text,label\nx,\n,b\n"))]) == []


def test_an_unnamed_column_without_a_cell_is_no_column(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t.csv", "text,label,, \nx,a,,\ny,b, ,\nz,c\n"))
    assert table.columns == ("text", "label")
    assert [tuple(row.values()) for row in table.rows] == [("x", "a"), ("y", "b"), ("z", "c")]
    table = read_table(write(tmp_path, "t.tsv", "\ttext\tlabel\t\n0\tx\ta\t\n"))
    assert table.columns == ("", "text", "label")
    for content in ("text,label,\nx,a,\ny,b,c\n", ",,\n,,\n"):
        assert "the first line is empty" in fault(write(tmp_path, "t.csv", content))
    assert "line 2: got 1 cells, want 3" in fault(write(tmp_path, "t.csv", "text,label,\nx\n"))
