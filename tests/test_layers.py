"""Imports point down, have no cycles, and leave heavy packages alone until they are needed."""

import ast
import graphlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "peft", "optuna", "datasets"}
AT_EXIT = (
    "import atexit, sys; "
    f"atexit.register(lambda: print('loaded', *sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)); "
)


def loaded(code: str, *arguments: str) -> set[str]:
    """The heavy packages that a fresh process has loaded after running the code."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT + code, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


def report_modules() -> list[str]:
    """`tunewright.report` and every file in it, found without importing any."""
    spec = importlib.util.find_spec("tunewright.report")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    files = pkgutil.iter_modules(spec.submodule_search_locations, "tunewright.report.")
    return ["tunewright.report", *(file.name for file in files)]


def test_layers_hold() -> None:
    # In a process of its own: within pytest's capture the linter's console closes what later tests write to.
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_base_can_do_is_asked_of_the_base() -> None:
    """Never of its class: the next kind of base would be forgotten in a list of classes."""
    classes = {"Prompted", "Writer", "Prefixed", "Decoder", "Encoder", "Masked", "Seq2Seq", "Remote"}
    classes |= {"Checkpoint", "Endpoint"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if classes & {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
    ]
    assert not found


def test_no_import_cycles() -> None:
    """Whoever imports a module runs the packages around it first: one of these that imports its own is a cycle."""
    graph = grimp.build_graph("tunewright", cache_dir=None)
    edges = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for module in graph.modules - {"tunewright"}:
        package = module.rpartition(".")[0]
        edges[module] |= {package} - {"tunewright"}  # which loads its public names when they are first used
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        pytest.fail("import cycle: " + " <- ".join(error.args[1]))


def test_a_heavy_package_would_be_seen() -> None:
    assert "optuna" in loaded("import optuna")


def test_package_is_light() -> None:
    assert loaded("import tunewright") == set()


def test_report_is_light() -> None:
    assert loaded(f"import {', '.join(report_modules())}") == set()


@pytest.mark.parametrize("verb", [[], ["compare"], ["predict"], ["evaluate"], ["report"], ["methods"]])
def test_help_is_light(verb: list[str]) -> None:
    assert loaded("from tunewright.cli.main import main; sys.exit(main())", *verb, "--help") == set()
