"""The command within this process."""

import pytest

from tests.commands import Call


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return Call(monkeypatch=monkeypatch, capsys=capsys)
