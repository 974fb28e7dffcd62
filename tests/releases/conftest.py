"""A registry in a file, and on a real PostgreSQL where one is installed."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Head
from tunewright.releases.state import State


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database, in a file and on PostgreSQL."""
    if request.param == "sqlite":
        return str(tmp_path / "state.db")
    make: Callable[[], str] = request.getfixturevalue("postgresql")
    return make()


@pytest.fixture
def state(where: str) -> Iterator[State]:
    """A new registry on either database."""
    opened = State.open(where)
    yield opened
    opened.close()


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[[str], Path]:
    """Name -> folder of a small adapter, another one for each name."""

    def make(name: str) -> Path:
        path = tmp_path / "adapters" / name
        base = BaseIdentity(name="tiny", kind="encoder", sha256="b" * 64, tokenizer_sha256="t" * 64)
        weight_CD = torch.randn(2, 4, generator=torch.Generator().manual_seed(len(name) + sum(map(ord, name))))
        head = Head(weight_CD=weight_CD, bias_C=torch.zeros(2))
        folder.save(Adapter(base=base, labels=("no", "yes"), max_tokens=16, head=head, about={}), path)
        return path

    return make
