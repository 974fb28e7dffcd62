"""A registry in a file, and on a real PostgreSQL where one is installed."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import Head
from tunewright.releases.state import State


def _programs() -> Path | None:
    """Folder of PostgreSQL's own programs."""
    for found in (shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))):
        if found is not None:
            return Path(found).resolve().parent
    return None


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of a server that lives as long as the tests; it listens on a socket in its folder alone."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL installed")
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL installed")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="tw-pg-") as made:
        if user is not None:
            try:
                shutil.chown(made, user)
            except LookupError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        data = Path(made) / "data"

        def call(*command: str) -> None:
            quiet = subprocess.DEVNULL
            subprocess.run(command, check=True, user=user, cwd=made, stdout=quiet, stderr=quiet, timeout=120)

        call(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "tunewright", "-E", "UTF8")
        options = f"-k {made} -c listen_addresses=''"
        call(str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-l", str(Path(made) / "log"), "-w", "start")
        try:
            yield f"postgresql://tunewright@/{{}}?host={made}"
        finally:
            call(str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "stop")


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database, in a file and on PostgreSQL."""
    if request.param == "sqlite":
        yield str(tmp_path / "state.db")
        return
    from sqlalchemy import create_engine, text

    server: str = request.getfixturevalue("postgresql")
    name = "t" + os.urandom(6).hex()
    url = server.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url.format("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    yield server.format(name)


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
