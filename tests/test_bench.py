"""`make bench` gives every program `--quick` and nothing else."""

import ast
from pathlib import Path

import pytest

PROGRAMS = [
    path for path in sorted((Path(__file__).parents[1] / "bench").glob("*.py")) if '"--quick"' in path.read_text()
]


def required(path: Path) -> list[str]:
    """Arguments that a program cannot do without."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            name = str(ast.literal_eval(node.args[0]))
            optional = name.startswith("-") and given.get("required") != "True"
            if not optional and given.get("nargs") not in ("'?'", "'*'"):
                found.append(name)
    return found


def test_there_are_programs() -> None:
    assert "soft_prompt_vs_peft" in [path.stem for path in PROGRAMS]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_quick_needs_no_other_argument(path: Path) -> None:
    assert required(path) == []
