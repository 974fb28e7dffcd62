"""Nearest vectors in memory and on a real PostgreSQL with pgvector: the same, whatever happens to the server."""

import os
import socket
import threading

import numpy as np
import pytest
import sqlalchemy as sql
import torch
from torch import Tensor

from tests.postgresql import Relay
from tunewright.adapters.retriever import InMemory
from tunewright.errors import ConfigError, VectorStoreError
from tunewright.prompts import pgvector


def vectors(num_rows: int, width: int = 24, seed: int = 0) -> Tensor:
    found = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1)


def rows_of(url: str, table: str) -> list[tuple[int, str]]:
    with pgvector.server(url)._engine.connect() as connection:
        return [(int(k), str(v)) for k, v in connection.execute(sql.text(f'SELECT * FROM "{table}" ORDER BY 1'))]


def test_the_server_finds_what_memory_finds(vector_store: str) -> None:
    """By brute force in fp64 too; of equal vectors the first, and no more than there are."""
    pool_ND = vectors(200)
    pool_ND[150:] = pool_ND[:50]
    name = pgvector.keep(vector_store, pool_ND)
    there, here = pgvector.PgVector(name), InMemory(pool_ND)
    for query_D in [*vectors(20, seed=1), pool_ND[3], pool_ND[120]]:
        scores_N = pool_ND.double().numpy() @ query_D.double().numpy()
        expected = np.lexsort((np.arange(200), -scores_N.round(12))).tolist()
        for count in (1, 7, 999):
            assert list(there.nearest(query_D, count)) == list(here.nearest(query_D, count)) == expected[:count]
    assert list(there.nearest(pool_ND[3], 2)) == [3, 153]


def test_a_collection_is_named_by_what_it_holds(vector_store: str) -> None:
    """Twice the same is one, filled once; others stand beside it; one that somebody emptied is told of."""
    first, second = pgvector.keep(vector_store, vectors(5)), pgvector.keep(vector_store, vectors(5, seed=1))
    assert first != second
    assert pgvector.keep(vector_store, vectors(5).clone()) == first
    found = rows_of(vector_store, first)
    assert [k for k, _ in found] == list(range(5))
    read_ND = np.array([np.fromstring(v.strip("[]"), sep=",") for _, v in found], dtype=np.float32)
    np.testing.assert_allclose(read_ND, vectors(5).numpy(), rtol=1e-6)
    with pgvector.server(vector_store)._engine.begin() as connection:
        connection.execute(sql.text(f'DELETE FROM "{second}" WHERE position > 2'))
    with pytest.raises(VectorStoreError, match=f"{second} holds 3 of 5 vectors. Drop that table"):
        pgvector.keep(vector_store, vectors(5, seed=1))
    with pytest.raises(VectorStoreError, match=r'relation "tunewright_0+" does not exist'):
        pgvector.PgVector(f"tunewright_{0:040}").nearest(vectors(1)[0], 1)


def test_processes_that_fill_at_once_make_one(vector_store: str) -> None:
    """Threads with a connection each, at a barrier."""
    names, faults, both = list[str](), list[Exception](), threading.Barrier(4)

    def fill() -> None:
        both.wait(30)
        try:
            names.append(pgvector.keep(vector_store, vectors(300)))
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=fill) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    assert len(names) == 4
    assert len(rows_of(vector_store, names[0])) == 300


def test_a_connection_that_breaks_is_made_again(relay: tuple[Relay, str]) -> None:
    line, url = relay
    pool_ND = vectors(50)
    there = pgvector.PgVector(pgvector.keep(url, pool_ND))
    before = there.nearest(pool_ND[7], 9)
    line.cut(whole=False)
    assert there.nearest(pool_ND[7], 9) == before
    line.cut(whole=True)
    back = threading.Timer(0.6, lambda: setattr(line, "is_cut", False))
    back.start()
    assert there.nearest(pool_ND[7], 9) == before
    back.join()


def test_a_server_that_stays_away_is_one_line(relay: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many tries as are said; in its wake it is not asked, then once, until it is back."""
    line, url = relay
    monkeypatch.setenv("PGPASSWORD", "secret-word")
    there = pgvector.PgVector(pgvector.keep(url, vectors(9)))
    line.cut(whole=True)
    monkeypatch.setattr(pgvector, "_DOWN_S", 60.0)
    server = pgvector.server(url)
    for num_tries, is_later in ((1 + len(pgvector.WAITS_S), False), (0, False), (1, True), (0, False)):
        taken = line.num_taken
        server._down_until_s = 0.0 if is_later else server._down_until_s
        with pytest.raises(VectorStoreError, match="cannot use the vector store postgresql://tunewright@") as failed:
            there.nearest(vectors(1)[0], 1)
        assert line.num_taken - taken == num_tries
        assert "\n" not in str(failed.value)
        assert "secret-word" not in str(failed.value)
        assert str(failed.value).endswith("Mend it and repeat the call; a run goes on with --resume.")
    line.is_cut, server._down_until_s = False, 0.0
    assert there.nearest(vectors(9)[4], 1) == [4]
    line.cut(whole=True)
    taken = line.num_taken
    with pytest.raises(VectorStoreError):
        there.nearest(vectors(1)[0], 1)
    assert line.num_taken - taken == 1 + len(pgvector.WAITS_S), "as patient as before"
    line.is_cut = False
    pgvector.use(url)  # a run that begins asks at once
    assert there.nearest(vectors(9)[4], 1) == [4]


def test_a_server_that_never_answers_is_waited_for_once() -> None:
    """All rows of a task are refused while one connection was tried."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"postgresql://ada@127.0.0.1:{deaf.getsockname()[1]}/x"
        with pytest.raises(VectorStoreError, match="timeout"):
            pgvector.server(url).ask(lambda _: None, waits_s=())
        deaf.accept()[0].close()
        deaf.setblocking(False)
        for _ in range(32):
            with pytest.raises(VectorStoreError, match="timeout"):
                pgvector.PgVector("x", url).nearest(vectors(1)[0], 1)
        with pytest.raises(BlockingIOError):
            deaf.accept()


def test_a_server_that_nobody_named_is_no_fault_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pgvector.URL, "")
    with pytest.raises(VectorStoreError, match="--vector-store, or TUNEWRIGHT_VECTOR_STORE for adapters"):
        pgvector.PgVector(f"tunewright_{0:040}").nearest(vectors(1)[0], 1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://ada:secret-word@host/name",
            "no URL of a PostgreSQL. Write .*: it goes in PGPASSWORD",
        ),
        ("postgresql://host/name?password=secret-word", "no URL of a PostgreSQL"),
        ("postgresql://host/name?sslpassword=secret-word", "no URL of a PostgreSQL"),
        ("postgresql://host/name?PGPASSWORD=secret-word", "no URL of a PostgreSQL"),
        ("postgresql://host:port/name", "no URL of a PostgreSQL"),
        ("sqlite:///secret-word.db", "no URL of a PostgreSQL"),
        ("secret-word", "no URL of a PostgreSQL"),
        ("", "--vector-store, or TUNEWRIGHT_VECTOR_STORE for adapters that need one. is not given"),
    ],
)
def test_urls(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as failed:
        pgvector.server(url)
    assert "secret-word" not in str(failed.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start nobody waits, and the environment stays as it is."""
    monkeypatch.delenv(pgvector.URL, raising=False)
    with pytest.raises(VectorStoreError, match=r"cannot use the vector store postgresql://ada@127\.0\.0\.1:1/x: "):
        pgvector.use("postgresql://ada@127.0.0.1:1/x")
    assert pgvector.URL not in os.environ
