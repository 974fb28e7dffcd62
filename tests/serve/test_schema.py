"""schemathesis asks what the OpenAPI schema allows, and what it does not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.live import Live, serving
from tunewright.adapters import folder

NAMES = ["head-0", "soft-1", "lora-2", "nobody"]


SETTINGS = """
[[operations]]
include-path = "/v1/tasks/{task}/predict"
[operations.checks]
# schemathesis 4.32 sends the body 0 here and takes it for valid; the schema allows two kinds of objects only.
positive_data_acceptance.enabled = false
"""


def _with_real_names(schema: Any) -> Any:
    """Tasks that are there: a made-up name would hear 404 before anything else is looked at."""
    if isinstance(schema, dict):
        if str(schema.get("pattern", "")).startswith("^[A-Za-z0-9][A-Za-z0-9._-]"):
            return {"type": "string", "enum": NAMES}
        return {key: _with_real_names(value) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_with_real_names(value) for value in schema]
    return schema


@pytest.fixture
def anything(task_folders: list[str], tmp_path: Path) -> Iterator[Live]:
    """Tasks that take one text or two: which of them a task takes no schema can say either."""
    given = []
    for path in map(Path, task_folders):
        if path.name in NAMES:
            folder.save(folder.load(path).with_about({"dtype": "float32"}), tmp_path / path.name)
            given.append(str(tmp_path / path.name))
    with serving(given) as live:
        yield live


@pytest.mark.slow
def test_the_schema_is_kept(anything: Live, tmp_path: Path) -> None:
    """No server error, nothing undescribed, what the schema allows accepted, what it does not refused."""
    document = tmp_path / "openapi.json"
    document.write_text(
        json.dumps(_with_real_names(httpx.get(f"{anything.url}/openapi.json").json())), encoding="utf-8"
    )
    (tmp_path / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", anything.url]
    options = ["--max-examples", "20", "--seed", "1", "--no-color", "--continue-on-failure"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
