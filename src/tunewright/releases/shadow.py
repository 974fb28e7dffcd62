"""A candidate that answers silently beside the live version, on a share of the requests."""

import hashlib

from tunewright.errors import RegistryError
from tunewright.evaluation.shadow import Answered, Shadowing, compare
from tunewright.releases.entries import TaskEntry, Version
from tunewright.releases.state import State


def shadow_of(entry: TaskEntry, request_id: str) -> Version | None:
    """The version that is to answer this request silently too; None for most requests.

    The choice is a hash of the request's id: of no text, no clock and no other request.
    """
    if entry.shadow is None or entry.live is None:
        return None
    digest = hashlib.sha256(f"{entry.shadow.name} {request_id}".encode()).digest()
    return entry.shadow if int.from_bytes(digest[:7], "big") < entry.shadow_share * 2**56 else None


def watch(state: State, task: str) -> Shadowing:
    """What the requests so far say of the version in shadow against the live one.

    Of several words on one request the last counts.

    Raises:
        RegistryError: No such task, or nothing in shadow.
    """
    entry = next((each for each in state.tasks() if each.name == task), None)
    live = state.live(task)
    if entry is None or entry.shadow is None or live is None:
        raise RegistryError(f"{task} has no version in shadow. Set one: tunewright registry shadow {task} VERSION.")
    return evidence(state, live, entry.shadow)


def evidence(state: State, live: Version, shadow: Version) -> Shadowing:
    """What the requests that two versions of a task both answered say, whether or not one is in shadow now."""
    said = {each.request_id: each for each in state.feedback(live.task) if each.version == live.version}
    pairs = state.shadow_pairs(live.task, live.version, shadow.version)
    return compare(
        Answered(
            live=pair.answer,
            shadow=pair.shadow_answer,
            verdict=None if (word := said.get(pair.request_id)) is None else word.verdict,
            corrected=None if word is None else word.corrected,
        )
        for pair in pairs
    )
