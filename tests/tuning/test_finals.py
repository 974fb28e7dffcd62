"""What is written beside the adapters that are kept."""

from collections.abc import Callable
from pathlib import Path

import tunewright as tw
from tests.commands import write_topics
from tunewright.tuning.progress import Silent


def test_what_a_method_says_of_its_adapter_is_kept(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the shots that were asked for, those that found room in a context of 64 tokens."""
    run = tw.compare(
        str(write_topics(tmp_path / "topics.csv", 60)), model=str(tiny_folder("llama")), trials=1, seeds=1, folds=1,
        methods="majority,few-shot", out=str(tmp_path / "run"), listener=Silent(),
    )  # fmt: skip
    adapter = run["few-shot"].adapter
    assert adapter.template is not None
    shown = len([part for part in adapter.template.fixed.split("\n\n") if part])
    assert adapter.about["params"]["shots"] == 8
    assert adapter.about["shots"] == shown < 8
