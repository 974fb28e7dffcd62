"""`report.md`: short, and with nothing in it that a pull request would obey."""

import re
from pathlib import Path

from tests.report.conftest import MakeRun, change, result
from tunewright.report.build import build_report
from tunewright.report.text import markdown


def text_of(run: Path) -> str:
    build_report(run)
    return (run / "report.md").read_text(encoding="utf-8")


def test_the_table_has_each_measured_candidate_with_its_value(rich_run: Path) -> None:
    rows = [line for line in (rich_run / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = {row.split(" | ")[0].strip("|* "): row.split(" | ") for row in rows[1:]}
    measured = {each["id"]: each["test"]["value"] for each in result(rich_run)["candidates"] if each["test"]}
    assert {name: row[2] for name, row in cells.items()} == {k: f"{100 * v:.1f}" for k, v in measured.items()}
    assert cells["full"][-1].startswith("bytes 90.9 MB")
    assert cells["soft-prompt"][-1].startswith("unstable-across-seeds")
    assert len({row.count("|") - row.count("\\|") for row in rows}) == 1


def test_it_says_what_was_decided_what_failed_and_what_to_do(rich_run: Path) -> None:
    text = (rich_run / "report.md").read_text(encoding="utf-8")
    assert text.startswith("## tickets: Recommended: lora\n")
    assert result(rich_run)["decision"]["reason"] in text
    assert "> **Check failed:** 240 test rows cannot separate" in text
    assert "\n~~~console\n$ tunewright predict runs/rich/adapters/lora/seed-" in text
    assert "<data" not in text


def test_text_of_the_user_is_not_obeyed(make_run: MakeRun) -> None:
    run = make_run(methods=("majority", "lora"))
    content = result(run)
    content["task"]["name"] = "a | b\n# c"
    content["candidates"][0]["id"] = "<img src=x> [a](http://evil.example) @all `x`"
    content["decision"]["reason"] = "one\n\n~~~\n<script>"
    change(run, **content)
    text = text_of(run)
    assert re.search(r"(?<!\\)<", text) is None
    for bad in ("\n# c", " [a]", "\n~~~\n\\<", " @all", " `x`"):
        assert bad not in text
    assert "a \\| b \\# c" in text


def test_what_is_escaped_reads_the_same() -> None:
    escaped = markdown("a_b*c [d] <e> #1 | ~f @g & `h` \\ i")
    assert re.sub(r"\\(.)", r"\1", escaped) == "a_b*c [d] <e> #1 | ~f @g & `h` \\ i"
