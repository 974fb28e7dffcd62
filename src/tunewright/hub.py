"""Names on the hub: looked up in its cache alone where the hub does not answer."""

import contextlib
from collections.abc import Iterator

_ANSWER_S = 3.0


@contextlib.contextmanager
def reachable_or_cached() -> Iterator[bool]:
    """Whether the hub answers; where it does not, in here only its cache is asked.

    huggingface_hub has no setting for how often it tries again: a mistyped name would take 40 seconds where
    there is no network.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=_ANSWER_S)  # through the user's proxy, if there is one
    except Exception:  # noqa: BLE001 - of whichever library carries the session, and of a proxy that is none
        return False
    return True
