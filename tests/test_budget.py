"""The source stays small enough to read in one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tunewright"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 12
MAX_TOTAL_LINES = 33_750

Sizes = dict[str, int]


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and decorators."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def functions_in(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, nested ones and methods too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{node.lineno} {node.name}", function_lines(node)


def largest(sizes: Sizes) -> str:
    """The five largest, one a line."""
    return "\n".join(f"{lines:6} {name}" for name, lines in sorted(sizes.items(), key=lambda item: -item[1])[:5])


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py")}


@pytest.fixture(scope="module")
def files(texts: dict[str, str]) -> Sizes:
    return {name: len(text.splitlines()) for name, text in texts.items()}


@pytest.fixture(scope="module")
def functions(texts: dict[str, str]) -> Sizes:
    return {f"{name}:{function}": lines for name, text in texts.items() for function, lines in functions_in(text)}


def test_counting() -> None:
    text = 'def f() -> int:\n    """One.\n\n    Two.\n    """\n    return 1\n\nclass C:\n    async def g(self): ...\n'
    assert list(functions_in(text)) == [("1 f", 2), ("9 g", 1)]


def test_files(files: Sizes) -> None:
    print("largest files:", largest(files), sep="\n")
    over = {name: lines for name, lines in files.items() if lines > MAX_FILE_LINES}
    assert not over, f"files over {MAX_FILE_LINES} lines; split them by noun:\n{largest(over)}"


def test_functions(functions: Sizes) -> None:
    print("largest functions:", largest(functions), sep="\n")
    over = {name: lines for name, lines in functions.items() if lines > MAX_FUNCTION_LINES}
    assert not over, f"functions over {MAX_FUNCTION_LINES} lines; split them:\n{largest(over)}"


def test_median_function(functions: Sizes) -> None:
    middle = median(functions.values())
    assert middle < MAX_MEDIAN_FUNCTION_LINES, f"median function has {middle} lines; largest:\n{largest(functions)}"


def test_total(files: Sizes) -> None:
    total = sum(files.values())
    assert total < MAX_TOTAL_LINES, f"{total} lines of source, allowed {MAX_TOTAL_LINES}; largest:\n{largest(files)}"


def test_two_levels(files: Sizes) -> None:
    deep = [name for name in files if len(Path(name).parts) > len(Path("src/tunewright/package/file.py").parts)]
    assert not deep, f"packages are one level deep: {deep}"
