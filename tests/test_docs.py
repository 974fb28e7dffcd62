"""The code in the README and the tutorial runs, and the reference pages are those of this code.

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


def test_reference_is_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
