"""JSON lines of a run folder: whatever text was written is read again, and a fault is one line that says where."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.errors import RunError
from tunewright.files import append_line, dump_lines, read_lines

# All that `str.splitlines` takes for the end of a line.
SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def encoded(text: str) -> bytes:
    return text.encode("utf-8")


@given(
    st.lists(st.text(st.sampled_from(SEPARATORS + 'a "\\{}'))),
    st.text(st.sampled_from(SEPARATORS.replace("\n", "") + "ab")),
)
def test_lines_survive_whatever_is_in_a_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], torn: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "test.jsonl"
    records = [{"id": f"t:{number}", "text": text} for number, text in enumerate(texts, 1)]
    path.write_bytes(encoded(dump_lines(records)) + encoded(torn))
    assert read_lines(path) == records
    append_line(path, {"text": torn})
    assert read_lines(path) == [*records, {"text": torn}]


def test_no_file_and_a_torn_character_are_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    assert read_lines(path) == []
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": "\xc3')
    assert read_lines(path) == [{"a": 1}]


@pytest.mark.parametrize("broken", [b'{"a": ', b'{"a": "\xe9"}', b"[" * 100_000])
def test_a_broken_line_is_named(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b'{"a": "\xe2\x80\xa8"}\n\n' + broken + b'\n{"a": 2}\n')
    with pytest.raises(RunError) as caught:
        read_lines(path)
    message = str(caught.value)
    assert re.search(r"trials\.jsonl, line 3 is not valid JSON: .*\. Repeat the run or restore the file\.$", message)
    assert "\n" not in message
