"""What is refused when a server starts."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.serve.live import ABOUT, rename_base
from tunewright.adapters import folder
from tunewright.adapters.parts import Decoding, Reasoning
from tunewright.cli.serve import _tasks as served_tasks
from tunewright.errors import AdapterError, ConfigError, StateError
from tunewright.releases.state import State
from tunewright.serve.cache import Cache
from tunewright.serve.tasks import Folders, Served


def test_adapters_that_are_left_to_predict_are_refused(
    task_folders: list[str], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """At the start, all at once; in a registry where nothing else is live; and when they are loaded in shadow."""
    base = tiny.decoder(tiny_folder("llama"))
    adapter = tiny.adapter(base, reasoning=Reasoning(cue="so"), decoding=Decoding(), **tiny.asking_parts(base))
    folder.save(adapter.with_about(ABOUT), tmp_path / "thinks")
    rename_base(remote := Path(shutil.copytree(task_folders[0], tmp_path / "remote")), "openai:big")
    said = [
        f"{tmp_path / 'thinks'} reasons before it answers, which is not served. Use predict.",
        f"{remote} asks openai:big, which answers elsewhere, which is not served. Use predict.",
    ]
    with pytest.raises(ConfigError) as refused:
        Folders([str(tmp_path / "thinks"), task_folders[1], str(remote)])
    assert list(refused.value.faults) == said
    cache = Cache(limit_bytes=1, max_bases=2, on_loaded=lambda: None)
    for path, fault in zip((tmp_path / "thinks", remote), said, strict=True):
        with pytest.raises(AdapterError) as unloaded:
            cache.load(Served(task="one", version=1, folder=str(path)))
        assert str(unloaded.value) == fault
    state = State.open(str(tmp_path / "s.db"))
    state.add("thinks", tmp_path / "thinks")
    state.promote("thinks", 1, reason="", expected=None)
    with pytest.raises(StateError, match=r"has no task that is served: .* reasons before it answers"):
        served_tasks(None, str(tmp_path / "s.db"), False)
    state.add("other", Path(task_folders[1]))
    state.promote("other", 1, reason="", expected=None)
    assert list(served_tasks(None, str(tmp_path / "s.db"), False)[0].names()) == ["other", "thinks"]
