"""One thread for each test process, no network, and no accelerator tests where there is none."""

import os

# Before anything imports torch: the thread count is read once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.postgresql import Relay
    from tunewright.backbones.backbone import Backbone
    from tunewright.backbones.decoder import Decoder
    from tunewright.backbones.encoder import Encoder
    from tunewright.backbones.masked import Masked
    from tunewright.backbones.seq2seq import Seq2Seq

# A busy machine is no failure, and a failure must be the same for everybody.
hypothesis.settings.register_profile("tunewright", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("tunewright")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where torch sees no accelerator; torch is imported only if there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu") is not None]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no accelerator"))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[], str]]:
    """What makes a new database on a server that lives as long as the tests, and says its URL."""
    from tests.postgresql import running

    with running() as make:
        yield make


@pytest.fixture
def vector_store(postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new database, which the environment names."""
    from tunewright.errors import VectorStoreError
    from tunewright.prompts import pgvector

    pytest.importorskip("pgvector", reason="no client of pgvector installed")
    url = postgresql()
    monkeypatch.setenv(pgvector.URL, url)
    try:
        pgvector.use(url)
    except VectorStoreError as error:
        pytest.skip(str(error))
    return url


@pytest.fixture
def relay(vector_store: str, monkeypatch: pytest.MonkeyPatch) -> "Iterator[tuple[Relay, str]]":
    """A line that can be cut, and the URL through it."""
    import sqlalchemy as sql

    from tests.postgresql import Relay
    from tunewright.prompts import pgvector

    found = sql.make_url(vector_store)
    relay = Relay(str(Path(str(found.query["host"])) / ".s.PGSQL.5432"))
    url = f"postgresql://tunewright@127.0.0.1:{relay.port}/{found.database}"
    monkeypatch.setenv(pgvector.URL, url)
    monkeypatch.setattr(pgvector, "_DOWN_S", 0.0)
    yield relay, url
    relay.close()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind of model -> folder of a tiny random one, made at the first call."""
    from tests import tiny

    @cache
    def folder(kind: str) -> Path:
        path = tmp_path_factory.mktemp(kind)
        tiny.build(kind, path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tiny_folder: Callable[[str], Path]) -> "Callable[[str], Encoder]":
    """Kind of encoder -> a tiny random one in fp32, loaded at the first call."""
    from tests import tiny

    return cache(lambda kind: tiny.encoder(tiny_folder(kind)))


@pytest.fixture(scope="session")
def tiny_masked(tiny_folder: Callable[[str], Path]) -> "Callable[[str], Masked]":
    """Kind of masked language model -> a tiny random one in fp32, loaded at the first call."""
    from tests import tiny

    return cache(lambda kind: tiny.masked(tiny_folder(kind)))


@pytest.fixture(scope="session")
def tiny_decoder(tiny_folder: Callable[[str], Path]) -> "Callable[[str], Decoder]":
    """Kind of decoder -> a tiny random one in fp32, loaded at the first call."""
    from tests import tiny

    return cache(lambda kind: tiny.decoder(tiny_folder(kind)))


@pytest.fixture(scope="session")
def tiny_seq2seq(tiny_folder: Callable[[str], Path]) -> "Callable[[str], Seq2Seq]":
    """Kind of encoder-decoder -> a tiny random one in fp32, loaded at the first call."""
    from tests import tiny

    return cache(lambda kind: tiny.seq2seq(tiny_folder(kind)))


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Callable[[str], Path]) -> "Callable[[str], Backbone]":
    """Kind of model -> a tiny random one in fp32, loaded at the first call."""
    from tests import tiny

    return cache(lambda kind: tiny.backbone(tiny_folder(kind)))


@pytest.fixture(scope="session")
def finished_run(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished comparison of all methods on a tiny model; not to be changed."""
    from tests.commands import write_topics
    from tunewright.api import compare

    folder = tmp_path_factory.mktemp("finished")
    data = write_topics(folder / "topics.csv", 48)
    model = str(tiny_folder("bert"))
    return compare(str(data), model=model, trials=3, seeds=2, folds=1, out=str(folder / "runs" / "first")).folder
