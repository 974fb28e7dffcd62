"""The code in the README and the tutorial runs, its tree is the source, and the reference pages are those of this code.

Blocks of one document run in order, in one namespace and one folder that holds a small `tickets.csv`:

    ```python            is executed
    ```console           is read by people only
    ```console run       every line that begins with `$ ` must end with exit code 0
"""

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/tutorial.md")
MESSAGES = ROOT / "examples" / "support" / "messages.csv"
LABELS, ROWS_PER_LABEL = 3, 20

BLOCK = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One block that is to run."""

    info: str
    code: str
    first_line: int
    """Line of the document on which the code begins, from 1."""


def blocks_in(text: str) -> list[Block]:
    """The blocks to run, in order."""
    found = (
        Block(info=match["info"].strip(), code=match["code"], first_line=text.count("\n", 0, match.start("code")) + 1)
        for match in BLOCK.finditer(text)
    )
    return [block for block in found if block.info in ("python", "console run")]


def commands_in(code: str) -> list[str]:
    """What follows each `$ `, lines that end in a backslash joined."""
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", code, re.MULTILINE)


def write_tickets(path: Path) -> None:
    """A small file for the documents: the same number of rows of the first labels of the example data."""
    with MESSAGES.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames is not None
    allowed = list(dict.fromkeys(row["label"] for row in rows))[:LABELS]
    taken: Counter[str] = Counter()
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames)
        writer.writeheader()
        for row in rows:
            if row["label"] in allowed and taken[row["label"]] < ROWS_PER_LABEL:
                taken[row["label"]] += 1
                writer.writerow(row)


def run(document: str, text: str) -> None:
    """Runs the blocks of a document in the current folder; a traceback names the document's own line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in blocks_in(text):
        if block.info == "python":
            exec(compile("\n" * (block.first_line - 1) + block.code, document, "exec"), namespace)
            continue
        for command in commands_in(block.code):
            done = subprocess.run(
                command, shell=True, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{document}:{block.first_line}: {command}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_document(document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tickets(tmp_path / "tickets.csv")
    monkeypatch.chdir(tmp_path)
    run(document, (ROOT / document).read_text(encoding="utf-8"))


SAMPLE = """\
# Title

```python
x = 1
```
```console
$ exit 1
```
```python
from pathlib import Path
x += 1
assert x == {x}
```
```console run
$ test -f \\
    made.txt
made.txt
```
"""


def test_harness_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.txt").touch()
    run("sample.md", SAMPLE.replace("{x}", "2"))


def test_harness_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError) as caught:
        run("sample.md", SAMPLE.replace("{x}", "3"))
    last = caught.traceback[-1]
    assert (str(last.path), last.lineno + 1) == ("sample.md", 12)


def test_harness_sees_a_failed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=r"sample\.md:15: test -f"):
        run("sample.md", SAMPLE.replace("{x}", "2"))


TREE = re.compile(r"^```text\n(?P<root>\S+/)\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
INDENT = 2


def paths_in_tree(text: str) -> list[str]:
    """Paths of the tree in a document: one name a line, folders end in `/`, two spaces a level, a purpose for each."""
    match = TREE.search(text)
    assert match is not None, "no block that begins with a folder"
    folders, paths = [match["root"]], []
    for line in match["lines"].splitlines():
        name, _, purpose = line.strip().partition(" ")
        assert purpose.strip(), f"no purpose: {line}"
        level = (len(line) - len(line.lstrip())) // INDENT
        paths.append("".join(folders[:level]) + name)
        folders[level:] = [name]
    return paths


def test_tree_is_read_by_level() -> None:
    text = "```text\nsrc/\n  a.py  one\n  b/    two\n    c.py  three\n  d/    four\n    e.css  five\n```\n"
    assert paths_in_tree(text) == ["src/a.py", "src/b/", "src/b/c.py", "src/d/", "src/d/e.css"]


def test_tree_is_the_source() -> None:
    """Every file but `__init__.py`, which its folder's line stands for, once."""
    source = ROOT / "src" / "tunewright"
    found = [path for path in source.rglob("*") if "__pycache__" not in path.parts and path.name != "__init__.py"]
    named = [f"{path.relative_to(ROOT).as_posix()}{'/' if path.is_dir() else ''}" for path in found]
    assert sorted(paths_in_tree((ROOT / "README.md").read_text(encoding="utf-8"))) == sorted(named)


LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/support/README.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Those in `docs/` are checked where the pages are built."""
    path = ROOT / document
    broken = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if not (path.parent / link).exists()]
    assert not broken


def test_reference_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
