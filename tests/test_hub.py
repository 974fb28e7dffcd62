"""A hub that answers, and one that does not."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.errors import ModelError
from tunewright.hub import reachable_or_cached


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing."""

    found = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.mark.usefixtures("online")
def test_a_hub_that_answers_is_asked(server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    with reachable_or_cached() as is_reachable:
        assert is_reachable
        assert not constants.is_offline_mode()


@pytest.mark.usefixtures("online")
def test_one_that_does_not_answer_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 9 of this machine: refused at once."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with reachable_or_cached() as is_reachable:
        assert not is_reachable
        assert constants.is_offline_mode()
    assert not constants.is_offline_mode()
    with pytest.raises(ModelError, match=r"^cannot load model 'some/model': the hub cannot be reached, and it is not"):
        load_checkpoint("some/model")
