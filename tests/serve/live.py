"""A server in this process, on a thread of its own, and tasks of every kind that mixes."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch

from tests import tiny
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Calibration, DemonstrationPool, Part, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.files import read_json, write_json
from tunewright.releases.state import State
from tunewright.serve.app import create_app
from tunewright.serve.gate import Limits
from tunewright.serve.keys import Keys
from tunewright.serve.server import Server, bind
from tunewright.serve.service import Service
from tunewright.serve.tasks import Folders, Tasks

ABOUT = {"columns": {"text": "text", "label": "label"}, "dtype": "float32"}


@dataclass(frozen=True, kw_only=True)
class Live:
    """A server that answers."""

    url: str
    service: Service

    def client(self, key: str | None = None) -> httpx.Client:
        """Plain HTTP."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextlib.contextmanager
def serving(
    tasks: Tasks | Sequence[str],
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    max_batch: int = 64,
    prefix_cache_bytes: int = 2**29,
    max_bases: int = 2,
    state: State | None = None,
    keeps_texts: bool = False,
    gets_ready: bool = True,
) -> Iterator[Live]:
    """A server for as long as the block lasts."""
    service = Service(
        tasks if not isinstance(tasks, Sequence) else Folders(tasks),
        limits=Limits() if limits is None else limits,
        max_batch=max_batch,
        prefix_cache_bytes=prefix_cache_bytes,
        max_bases=max_bases,
        state=state,
        keeps_texts=keeps_texts,
    )
    listening = bind("127.0.0.1", 0, keys)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = Server(create_app(service, keys=keys, hosts=("127.0.0.1",)), time_s=service.limits.time_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            wait_until_ready(client, 200 if gets_ready else 503)
        yield Live(url=url, service=service)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wait_until_ready(client: httpx.Client, status: int = 200) -> None:
    """Asks until it would answer, or says so."""
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").status_code == status:
                return
        threading.Event().wait(0.05)
    raise AssertionError("the server never became ready")


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kinds(base: Backbone, seed: int) -> dict[str, Callable[[], Adapter]]:
    """Name -> an adapter of that kind, with values of its own for each seed."""
    verbalizer = Verbalizer(phrases=(("food", "a meal"), ("travel",), ("music", "song")), scale=20.0)
    pool = DemonstrationPool(
        texts=("bread", "train", "choir"),
        labels_N=torch.tensor([0, 1, 2]),
        vectors_ND=torch.nn.functional.normalize(tiny.normal(seed, 3, base.width), dim=-1),
        num_neighbours=2,
        temperature=0.5,
    )
    bias = Calibration(bias_C=tiny.normal(seed, 3), temperature=1.5)

    def made(**parts: Part) -> Callable[[], Adapter]:
        return lambda: tiny.adapter(base, **{"head": tiny.head(base, seed), **parts})

    return {
        "head": made(),
        "soft": made(soft_prompt=tiny.soft_prompt(base, 1 + seed % 7, seed)),
        "prefix": made(prefix=tiny.prefix(base, 1 + seed % 5, seed)),
        "lora": made(lora=tiny.lora(base, 1 + seed % 3, seed)),
        "both": made(lora=tiny.lora(base, 2, seed), soft_prompt=tiny.soft_prompt(base, 3, seed)),
        "verbalizer": made(verbalizer=verbalizer, soft_prompt=tiny.soft_prompt(base, 2, seed)),
        "pool": made(demonstrations=pool),
        "calibrated": made(calibration=bias),
    }


def save_tasks(base: Backbone, parent: Path, rounds: int = 4) -> list[str]:
    """Adapter folders of every kind, `rounds` of each; as a command line would name them."""
    given = []
    for seed in range(rounds):
        for name, make in kinds(base, 10 * seed + 3).items():
            path = parent / f"{name}-{seed}"
            folder.save(make().with_about(ABOUT), path)
            given.append(str(path))
    return given


def rename_base(path: Path, name: str) -> None:
    """Another base by its name, which no hash is about."""
    record = read_json(path / "adapter.json")
    write_json(path / "adapter.json", record | {"base": record["base"] | {"name": name}})
