"""The Python interface: a run as a mapping, and settings on top of a whole configuration."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import tunewright as tw
from tests.commands import write_topics
from tunewright.errors import ConfigError, DataError, RunError
from tunewright.serve.predictor import Predictor
from tunewright.tuning.progress import Silent


@pytest.fixture(scope="module")
def run(finished_run: Path) -> tw.Run:
    return tw.Run(finished_run)


def test_candidates_that_are_not_there(run: tw.Run) -> None:
    """As in any mapping; and the error of a wrong name is still one line of ours."""
    assert "laro" not in run
    assert run.get("laro") is None
    with pytest.raises(KeyError):
        run["laro"]
    with pytest.raises(RunError) as error:
        run["laro"]
    assert str(error.value).startswith("unknown candidate 'laro'. Did you mean 'lora'?")


def test_a_run_by_its_name(run: tw.Run) -> None:
    again = tw.Run(str(run.folder))
    assert again.folder == run.folder
    assert repr(again) == f"<Run {run.folder}: {run.decision.recommended} is recommended>"
    with pytest.raises(RunError, match="unknown candidate '0'"):
        again[0]  # type: ignore[index]
    with pytest.raises(RunError):
        tw.Run("nope")


def test_a_run_s_folder_is_the_adapter_it_recommends(run: tw.Run) -> None:
    winner = run.decision.recommended
    assert winner is not None
    loaded = Predictor.load(str(run.folder))
    assert loaded.adapter.sha256() == run[winner].adapter.sha256()


def test_a_table_in_memory_is_no_data() -> None:
    with pytest.raises(ConfigError, match=r"`data` must be a file, .* Got a DataFrame\. Write it to a file first"):
        tw.compare(pd.DataFrame({"text": ["a"], "label": ["b"]}))  # type: ignore[arg-type]


def test_asking_for_a_candidate_loads_nothing(run: tw.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> Predictor:
        raise AssertionError("loaded")

    monkeypatch.setattr(Predictor, "load", load)
    assert "lora" in run
    assert set(run) == {name for name in [*run, "laro"] if name in run}
    assert len(run) == len(list(run)) > 1


def test_settings_on_top_of_a_configuration(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv", 48)
    model = (str(tiny_folder("bert")),)
    config = tw.RunConfig(data=str(data), model=model, methods=("majority",), trials=1, seeds=3, folds=1)
    run = tw.compare(config, listener=Silent(), seeds=1, out=str(tmp_path / "run"), margin=None)
    (candidate,) = run.comparison.candidates
    assert (candidate.id, len(candidate.seeds)) == ("majority", 1)


def test_paths_may_be_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        tw.compare(tmp_path / "absent.csv", out=tmp_path / "run")


def test_wrong_settings_on_top_of_a_configuration(tmp_path: Path) -> None:
    config = tw.RunConfig(data="d.csv", out=str(tmp_path / "run"))
    with pytest.raises(ConfigError) as error:
        tw.compare(config, seeds=0, bogus=7)
    assert len(error.value.faults) == 2
    assert "unknown setting 'bogus'" in str(error.value)
    assert "`seeds` must be" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_compare_with_a_decoder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """The same call as for an encoder; what it ships predicts."""
    data = write_topics(tmp_path / "topics.csv", 48)
    run = tw.compare(
        str(data),
        model=str(tiny_folder("llama")),
        methods="majority,soft-prompt,lora",
        trials=1,
        seeds=1,
        folds=1,
        out=str(tmp_path / "run"),
    )
    assert set(run) == {"majority", "soft-prompt", "lora"}
    answers = run["soft-prompt"].predict(["bread and soup", "a train ticket"])
    assert [sum(answer.probabilities) for answer in answers] == pytest.approx([1.0, 1.0])
