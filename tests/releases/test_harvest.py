"""From what people said to labelled rows."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tunewright.adapters import folder
from tunewright.adapters.parts import Candidates, Decoding, Part, Template
from tunewright.errors import RegistryError
from tunewright.releases.entries import Feedback
from tunewright.releases.harvest import harvest
from tunewright.releases.state import State


@pytest.fixture
def state(tmp_path: Path, adapter: Callable[[str], Path]) -> State:
    opened = State.open(str(tmp_path / "s.db"))
    opened.add("tickets", adapter("a"))
    return opened


def say(state: State, request: str, verdict: str, **rest: str) -> None:
    given = {"request_id": request, "task": "tickets", "version": 1, "verdict": verdict, **rest}
    state.add_feedback(Feedback(**given))  # type: ignore[arg-type]


def test_rows_and_what_makes_none(state: State) -> None:
    say(state, "1", "right", text="one", answer="yes")
    say(state, "2", "corrected", text="two", answer="yes", corrected="no")
    say(state, "3", "wrong", text="three", answer="yes")
    say(state, "4", "right", answer="yes")
    say(state, "5", "right", text="five")
    say(state, "6", "right", text="six", answer="yes")
    say(state, "6", "corrected", text="six", corrected="no")  # thought again
    say(state, "7", "corrected", text="one", corrected="no")  # the same text once more
    say(state, "8", "right", text="  ", answer="yes")
    found = harvest(state, "tickets")
    assert found.rows == (
        {"text": "two", "label": "no"},
        {"text": "six", "label": "no"},
        {"text": "one", "label": "no"},
    )
    assert found.summary == (
        "3 rows (0 confirmed, 3 corrected); left out: 2 superseded by a later word, 1 wrong without the right answer, "
        "2 without a text, 1 without the answer that was right"
    )


def test_a_later_word_without_a_text_keeps_the_earlier_one_s(state: State) -> None:
    say(state, "1", "right", text="one", text_pair="and", answer="yes")
    say(state, "2", "right", text="two", answer="yes")
    say(state, "1", "corrected", corrected="no")
    say(state, "2", "right", comment="sure")
    say(state, "3", "right", answer="yes")  # of another request: no text of theirs
    assert harvest(state, "tickets").rows == (
        {"text": "one", "text_pair": "and", "label": "no"},
        {"text": "two", "text_pair": "", "label": "yes"},
    )


def test_the_last_word_on_a_text_is_the_one_said_last(state: State) -> None:
    """Also where its request was spoken of first."""
    for request, label in (("1", "yes"), ("2", "no"), ("1", "perhaps")):
        say(state, request, "corrected", text="one", corrected=label)
    assert harvest(state, "tickets").rows == ({"text": "one", "label": "perhaps"},)


def test_every_word_is_accounted_for(state: State) -> None:
    for k in range(30):
        say(state, str(k % 20), ("right", "wrong")[k % 3 == 0], text=f"text {k % 12}", answer="yes")
    found = harvest(state, "tickets")
    left = found.num_superseded + found.num_wrong + found.num_without_text + found.num_without_answer
    assert len(found.rows) + left == 30


def test_pairs_of_texts(state: State) -> None:
    say(state, "1", "right", text="one", text_pair="and", answer="yes")
    assert harvest(state, "tickets").rows == ({"text": "one", "text_pair": "and", "label": "yes"},)


def test_no_such_task(state: State) -> None:
    with pytest.raises(RegistryError, match=r"unknown task 'tickts'\. Did you mean 'tickets'"):
        harvest(state, "tickts")


@pytest.mark.parametrize(
    "parts",
    [
        {"template": Template(fixed="", row="{text} of {place}:", columns=("place",))},
        {"candidates": Candidates(), "template": Template(fixed="", row="{text}:")},
    ],
)
def test_rows_that_are_more_than_texts(
    parts: dict[str, Part], tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    base = tiny.decoder(tiny_folder("llama"))
    folder.save(dataclasses.replace(tiny.adapter(base), head=None, **parts), tmp_path / "more")  # type: ignore[arg-type]
    opened = State.open(str(tmp_path / "t.db"))
    opened.add("tickets", tmp_path / "more")
    say(opened, "1", "right", text="one", answer="1")
    with pytest.raises(RegistryError, match="rows of tickets have columns beside the text"):
        harvest(opened, "tickets")


def test_a_task_that_writes_has_targets(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    base = tiny.decoder(tiny_folder("llama"))
    bare = dataclasses.replace(tiny.adapter(base), head=None, labels=())
    adapter = dataclasses.replace(bare, template=Template(fixed="", row="{text}:"), decoding=Decoding())
    folder.save(adapter, tmp_path / "writes")
    opened = State.open(str(tmp_path / "t.db"))
    opened.add("tickets", tmp_path / "writes")
    say(opened, "1", "right", text="one", answer="a whole answer")
    assert harvest(opened, "tickets").rows == ({"text": "one", "target": "a whole answer"},)
