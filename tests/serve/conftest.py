"""One server for the tests that leave it be."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.serve.live import Live, save_tasks, serving


@pytest.fixture(scope="session")
def task_folders(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """32 tasks of every kind that mixes, on one tiny encoder."""
    return save_tasks(tiny.encoder(tiny_folder("bert")), tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def live(task_folders: list[str]) -> Iterator[Live]:
    """A server of those tasks."""
    with serving(task_folders) as found:
        yield found
