"""Who answers silently, and what the stored pairs say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tunewright.errors import RegistryError
from tunewright.releases.entries import Feedback, ShadowPair, Verdict
from tunewright.releases.promotion import promote
from tunewright.releases.shadow import shadow_of, watch
from tunewright.releases.state import State

Make = Callable[[str], Path]


@pytest.fixture
def shadowed(tmp_path: Path, adapter: Make) -> State:
    state = State.open(str(tmp_path / "s.db"))
    for name in ("a", "b"):
        state.add("tickets", adapter(name))
    state.promote("tickets", 1, reason="", expected=None)
    state.set_shadow("tickets", 2, 0.2)
    return state


def test_the_share_is_kept_and_the_choice_is_the_request_s_own(shadowed: State) -> None:
    (entry,) = shadowed.tasks()
    ids = [f"request-{k}" for k in range(5000)]
    chosen = [shadow_of(entry, name) for name in ids]
    count = sum(version is not None for version in chosen)
    assert abs(count - 1000) < 4 * (5000 * 0.2 * 0.8) ** 0.5
    assert {version.version for version in chosen if version is not None} == {2}
    assert chosen == [shadow_of(entry, name) for name in ids]
    shadowed.set_shadow("tickets", 2, 1.0)
    (entry,) = shadowed.tasks()
    assert all(shadow_of(entry, name) is not None for name in ids)
    shadowed.set_shadow("tickets", None)
    (entry,) = shadowed.tasks()
    assert all(shadow_of(entry, name) is None for name in ids)


def test_pairs_meet_their_feedback(shadowed: State) -> None:
    def pair(name: str, live: str, shadow: str) -> ShadowPair:
        return ShadowPair(request_id=name, task="tickets", version=1, shadow=2, answer=live, shadow_answer=shadow)

    shadowed.add_shadow_pairs([pair("1", "a", "b"), pair("2", "a", "a"), pair("3", "a", "b"), pair("4", "b", "b")])
    for given in (
        Feedback(request_id="1", task="tickets", version=1, verdict="wrong"),
        Feedback(request_id="1", task="tickets", version=1, verdict="corrected", corrected="b"),
        Feedback(request_id="3", task="tickets", version=1, verdict="right"),
        Feedback(request_id="9", task="tickets", version=1, verdict="right"),  # not shadowed
        Feedback(request_id="4", task="tickets", version=2, verdict="wrong"),  # another version's answer
    ):
        shadowed.add_feedback(given)
    found = watch(shadowed, "tickets")
    assert (found.agreement.value, found.agreement.n) == (0.5, 4)
    assert found.difference is not None
    assert (found.difference.value, found.difference.n) == (0.0, 2)  # one won, one lost
    assert found.num_unclear == 0


def test_pairs_of_an_earlier_live_version_do_not_count(shadowed: State, adapter: Make) -> None:
    old = ShadowPair(request_id="1", task="tickets", version=1, shadow=2, answer="a", shadow_answer="b")
    shadowed.add_shadow_pairs([old])
    shadowed.add("tickets", adapter("c"))
    shadowed.promote("tickets", 3, reason="", expected=1)
    assert watch(shadowed, "tickets").agreement.n == 0


@pytest.mark.parametrize(("verdict", "is_refused"), [("right", True), ("wrong", False)])
def test_what_is_shown_in_shadow_refuses_a_promotion(verdict: Verdict, is_refused: bool, shadowed: State) -> None:
    """Live right and the silent one another 200 times; where nobody knows whether that was right, nothing is shown."""
    pairs = [
        ShadowPair(request_id=str(k), task="tickets", version=1, shadow=2, answer="a", shadow_answer="b")
        for k in range(200)
    ]
    shadowed.add_shadow_pairs(pairs)
    for pair in pairs:
        shadowed.add_feedback(Feedback(request_id=pair.request_id, task="tickets", version=1, verdict=verdict))
    shadowed.set_shadow("tickets", None)
    with pytest.raises(RegistryError) as refused:
        promote(shadowed, "tickets", 2)
    said = "in shadow right 100.0 points less often than tickets@1 on 200 requests"
    assert (said in str(refused.value)) is is_refused
    assert "comes from no comparison" in str(refused.value)
    assert promote(shadowed, "tickets", 2, force=True).forced


def test_nothing_in_shadow(shadowed: State) -> None:
    shadowed.set_shadow("tickets", None)
    for task in ("tickets", "other"):
        with pytest.raises(RegistryError):
            watch(shadowed, task)
