"""Ids that were given out are known again, whatever server gave them; no others are."""

import pytest

from tunewright.serve.request_ids import RequestIds, row_ids
from tunewright.serve.tasks import Served

SERVED = Served(task="topics-2", version=12, folder="/f")
IDS = RequestIds(b"a secret")


@pytest.mark.parametrize("count", [1, 2, 256])
def test_every_row_is_known_and_no_other(count: int) -> None:
    request_id = IDS.issue(SERVED, count)
    for row_id in row_ids(request_id, count):
        for prefix in ("", "cmpl-", "chatcmpl-"):
            found = RequestIds(b"a secret").parse(prefix + row_id)
            assert found is not None
            assert (found.row_id, found.task, found.version) == (row_id, "topics-2", 12)
    assert IDS.parse(f"{request_id}/{count}") is None
    assert IDS.parse(request_id if count > 1 else f"{request_id}/0") is None


def test_a_changed_id_is_nobody_s() -> None:
    """Each character of it counts: what answered, how many rows, the signature itself."""
    request_id = IDS.issue(SERVED, 1)
    for k, character in enumerate(request_id):
        other = "1" if character != "1" else "2"
        assert IDS.parse(f"{request_id[:k]}{other}{request_id[k + 1 :]}") is None
    assert RequestIds(b"another").parse(request_id) is None
    assert len({IDS.issue(SERVED, 1) for _ in range(100)}) == 100
