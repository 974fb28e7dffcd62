"""Ids of requests, signed so that none can be made up.

Each says which version of which task answered how many rows, so that feedback can be given at any time, to any server
of the registry that holds the secret.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from tunewright.releases.entries import NAME
from tunewright.serve.tasks import Served

_ID = re.compile(
    rf"(?:chatcmpl-|cmpl-)?((req_([0-9a-f]{{20}})([0-9a-f]{{4}})([0-9a-f]{{16}})-([1-9][0-9]{{0,8}})-({NAME.pattern}))"
    r"(?:/(0|[1-9][0-9]{0,4}))?)"
)
_MOST_ROWS = 0xFFFF
"""That an id can say; no request has as many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """Which version of which task answered a row."""

    row_id: str
    task: str
    version: int


class RequestIds:
    """Gives ids out and knows them again.

    Args:
        secret: Who knows it can make ids.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def issue(self, served: Served, num_rows: int) -> str:
        """The id of a request."""
        said = f"{secrets.token_hex(10)}{min(num_rows, _MOST_ROWS):04x}"
        return f"req_{said}{self._sign(said, served.version, served.task)}-{served.version}-{served.task}"

    def parse(self, row_id: str) -> Answered | None:
        """What the id of a row says; None where it was not given out, or not for so many rows."""
        match = _ID.fullmatch(row_id)
        if match is None:
            return None
        whole, _, nonce, count, signature, version, task, row = match.groups()
        if not hmac.compare_digest(signature, self._sign(nonce + count, int(version), task)):
            return None
        num_rows = int(count, 16)
        is_row = row is None if num_rows == 1 else row is not None and int(row) < num_rows
        return Answered(row_id=whole, task=task, version=int(version)) if is_row else None

    def _sign(self, said: str, version: int, task: str) -> str:
        """64 bits: enough where every guess is a request."""
        return hmac.new(self._secret, f"{said}-{version}-{task}".encode(), hashlib.sha256).hexdigest()[:16]


def row_ids(request_id: str, count: int) -> list[str]:
    """One for each row of a request: its own id, or with a number behind it where there are several."""
    return [request_id] if count == 1 else [f"{request_id}/{k}" for k in range(count)]
