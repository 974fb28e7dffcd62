"""Many tasks from one base: requests a second, latencies, memory; PEFT beside it.

The load generator is this process, each server one of its own, both on this machine; the sides take turns, in the
precision that is fastest here (`--dtype` for another), which is the same for all.

    python -m bench.serving --json serving.jsonl            # everything, both bases, under ten minutes on two cores
    python -m bench.serving --model minilm --part memory    # one base, one part
    python -m bench.serving --quick

Each part appends a line to the file, and is left out where the file has it already.

- mixed: soft prompts of all lengths in random order against one task at a time (mixed_over_single), and the same
  requests against PEFT's `set_adapter` for each (over_peft_switching), all at 32 clients; by the clock, and by the
  servers' processor time (`_cpu`), which neighbours disturb least. On an encoder a longer prompt is more work, so
  `single` is what the single tasks' rates at these lengths come to (their harmonic mean).
- latency: at 1, 8 and 32 clients, all tasks mixed.
- loras: one batch of 32 rows with 32 LoRAs, without HTTP, against PEFT's `adapter_names`.
- first-token: of a known task that writes, with a prompt of 500 vectors and one of 20.
- added: seconds until the server is ready, and the first request to a task that is added while it runs.
- memory: resident memory with 10,000 registered tasks, each asked once, less that with 100, at one cache limit.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

from bench import ROOT, load
from bench.serving_tasks import LENGTHS, MODEL, gpt2, loras, register, save, saved, soft_prompts, texts
from tunewright.adapters import folder
from tunewright.adapters.parts import Decoding, SoftPrompt
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row as ExecutorRow
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.releases.state import State
from tunewright.runtime import fast_dtype
from tunewright.types import Example

CLIENTS = (1, 8, 32)
PROMPTS = (20, 500)
"""Lengths whose first tokens are compared."""


Row = dict[str, Any]
"""What a part has measured, as a line of the file."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    kind: str
    model: str
    """Folder that PEFT loads too."""
    base: Backbone
    parent: Path
    num_tasks: int
    counts: tuple[int, int]
    """Registered tasks."""
    seconds: float
    """Of each measurement under load."""

    @cached_property
    def tasks(self) -> dict[Path, int]:
        """Adapter folder -> length of its soft prompt."""
        return soft_prompts(self.base, self.parent, self.num_tasks)


@contextmanager
def server(command: Sequence[str | Path], port: int, ready: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A server in a process of its own, ready."""
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
    started = subprocess.Popen([sys.executable, "-m", *map(str, command)], stdout=log, stderr=log, cwd=ROOT)
    try:
        for _ in range(2400):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}", timeout=5).close()
                break
            except OSError:
                assert started.poll() is None, f"the server ended: {log.seek(0)}{log.read().decode()}"
                time.sleep(0.05)
        yield started
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_bytes(process: "subprocess.Popen[bytes]") -> int:
    """Of a process, now."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def ask_once(port: int, names: Sequence[str], rows: Sequence[str]) -> list[float]:
    """Milliseconds of a request to each task, one after the other."""
    found = []
    for k, name in enumerate(names):
        body = json.dumps({"text": rows[k % len(rows)]}).encode()
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/tasks/{name}/predict", body, {"content-type": "application/json"}
        )
        start_s = time.perf_counter()
        urllib.request.urlopen(asked, timeout=60).read()
        found.append(1000 * (time.perf_counter() - start_s))
    return found


def shuffled(names: Sequence[str], rows: Sequence[str], seed: int) -> list[load.Asked]:
    """Requests to tasks in random order."""
    rng = np.random.default_rng(seed)
    return [
        load.Asked.of(names[int(rng.integers(len(names)))], rows[int(rng.integers(len(rows)))]) for _ in range(5000)
    ]


def measure_mixed(setting: Setting) -> Row:
    """One task at a time, all mixed, PEFT; rounds alternate, and each side counts by its median."""
    port, peft_port, rows, tasks = free_port(), free_port(), texts(), setting.tasks
    names, seconds = [path.name for path in tasks], setting.seconds
    ours: list[str | Path] = ["tunewright", "serve", *tasks, "--port", str(port)]
    peers: list[str | Path] = ["bench.peft_server", setting.model, str(peft_port), *tasks]
    with server(ours, port, "/readyz") as process, server(peers, peft_port, "/openapi.json") as peer:
        target, other = load.Target(port=port, pid=process.pid), load.Target(port=peft_port, pid=peer.pid)
        ask_once(port, names, rows)
        load.run(other, shuffled(names, rows, 0), clients=8, seconds=min(2.0, seconds))
        single: dict[int, list[load.Load]] = {length: [] for length in LENGTHS}
        mixed, theirs = list[load.Load](), list[load.Load]()
        for turn in range(3):
            for length in LENGTHS:
                name = next(path.name for path, own in tasks.items() if own == length)
                single[length].append(load.run(target, shuffled([name], rows, turn), clients=32, seconds=seconds / 3))
            mixed.append(load.run(target, shuffled(names, rows, turn), clients=32, seconds=seconds))
            theirs.append(load.run(other, shuffled(names, rows, turn), clients=32, seconds=seconds))
    return {
        "tasks": len(tasks),
        "single_requests_per_s": {length: _median(found, "requests_per_s") for length, found in single.items()},
        "mixed_requests_per_s": _median(mixed, "requests_per_s"),
        "peft_requests_per_s": _median(theirs, "requests_per_s"),
        "mixed_over_single": _over_single(mixed, single, "requests_per_s"),
        "mixed_over_single_cpu": _over_single(mixed, single, "requests_per_cpu_s"),
        "over_peft_switching": _median(mixed, "requests_per_s") / _median(theirs, "requests_per_s"),
        "over_peft_switching_cpu": _median(mixed, "requests_per_cpu_s") / _median(theirs, "requests_per_cpu_s"),
    }


def measure_latency(setting: Setting) -> Row:
    """All tasks mixed, for each number of clients."""
    port, rows, names = free_port(), texts(), [path.name for path in setting.tasks]
    with server(["tunewright", "serve", *setting.tasks, "--port", str(port)], port, "/readyz") as process:
        target = load.Target(port=port, pid=process.pid)
        ask_once(port, names, rows)
        asked = shuffled(names, rows, 9)
        loads = [load.run(target, asked, clients=c, seconds=setting.seconds) for c in CLIENTS]
    return {f"clients_{one.clients}": asdict(one) for one in loads}


def measure_first_token(setting: Setting) -> Row:
    """Milliseconds to the first token of tasks that were asked before."""
    width, seed = setting.base.word_embeddings.shape[1], torch.Generator().manual_seed(0)
    paths = {}
    for length in PROMPTS:
        prompt = SoftPrompt(vectors_PD=0.05 * torch.randn(length, width, generator=seed))
        own = {"soft_prompt": prompt, "decoding": Decoding(max_new_tokens=4)}
        paths[length] = save(setting.base, setting.parent, f"writes-{length}", length, **own)
    port, found = free_port(), {length: list[float]() for length in PROMPTS}
    with server(["tunewright", "serve", *paths.values(), "--port", str(port)], port, "/readyz"):
        for text in texts()[: 5 if setting.seconds < 2 else 60]:
            for length, path in paths.items():
                found[length].append(_first_token_ms(port, path.name, text))
    middle = {length: float(np.median(times[2:])) for length, times in found.items()}
    return {"first_token_ms": middle, "long_over_short": middle[PROMPTS[1]] / middle[PROMPTS[0]]}


def _first_token_ms(port: int, task: str, text: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"model": task, "prompt": text, "stream": True})
    start_s = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    line = reply.readline()
    passed_s = time.perf_counter() - start_s
    assert reply.status == 200, line
    assert line.startswith(b"data: "), line
    reply.read()
    connection.close()
    return 1000 * passed_s


def measure_added(setting: Setting) -> Row:
    """A server of a registry: until it is ready, and the first answer of each of ten tasks that are added then."""
    where, (first, *more) = setting.parent / "added.db", list(setting.tasks)[:11]
    state = State.open(str(where))
    state.add("first", first)
    state.promote("first", 1, reason="", expected=None)
    port, start_s = free_port(), time.perf_counter()
    command: list[str | Path] = ["tunewright", "serve", "--state", where, "--port", str(port)]
    with server(command, port, "/readyz"):
        ready_s = time.perf_counter() - start_s
        for path in more:
            state.add(path.name, path)
            state.promote(path.name, 1, reason="", expected=None)
        time.sleep(2)  # it looks for changes every half second
        found = ask_once(port, [path.name for path in more], texts())
        again = ask_once(port, [path.name for path in more], texts())
    state.close()
    return {"ready_s": ready_s, "first_request_ms": float(np.median(found)), "second_ms": float(np.median(again))}


def _median(found: Sequence[load.Load], name: str) -> float:
    return float(np.median([getattr(one, name) for one in found]))


def _over_single(mixed: Sequence[load.Load], single: dict[int, list[load.Load]], name: str) -> float:
    expected = len(single) / sum(1 / _median(found, name) for found in single.values())
    return _median(mixed, name) / expected


def measure_loras(setting: Setting) -> Row:
    """Rows a second of a mixed batch, ours over PEFT's own; in fp32 both give the same features."""
    base, model, repeats = setting.base, setting.model, 3 if setting.seconds < 2 else 20
    folders = loras(base, setting.parent, 32)
    rows = texts()[: len(folders)]
    encodings = base.encode([Example(id=str(k), text=text) for k, text in enumerate(rows)], base.max_tokens)
    ours = [ExecutorRow(encoding=e, adapter=folder.load(p)) for e, p in zip(encodings, folders, strict=True)]
    wrapped: Any = None
    for path in folders:
        part = str(path / "peft" / "lora")
        if wrapped is None:
            plain = transformers.AutoModel.from_pretrained(model).eval()
            wrapped = peft.PeftModel.from_pretrained(plain, part, adapter_name=path.name)
        else:
            wrapped.load_adapter(part, adapter_name=path.name)
    wrapped = wrapped.to(base.dtype)
    batch = transformers.AutoTokenizer.from_pretrained(model)(rows, return_tensors="pt", padding=True, truncation=True)
    mask, names = batch["attention_mask"], [path.name for path in folders]

    def theirs() -> torch.Tensor:
        hidden: torch.Tensor = wrapped(**batch, adapter_names=names).last_hidden_state
        last: torch.Tensor = hidden[torch.arange(len(names)), mask.sum(1) - 1]
        mean: torch.Tensor = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return last if base.identity.kind == "decoder" else mean

    sides: dict[str, Callable[[], torch.Tensor]] = {"ours": lambda: base.features(ours), "theirs": theirs}
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        if base.dtype == torch.float32:
            torch.testing.assert_close(sides["ours"](), sides["theirs"](), atol=1e-4, rtol=1e-3)
        for _ in range(repeats):
            for name, run in sides.items():
                start_s = time.process_time()
                run()
                times[name].append(time.process_time() - start_s)
    middle = {name: float(np.median(found)) for name, found in times.items()}
    return {"seconds": middle, "lora_over_peft_mixed": middle["theirs"] / middle["ours"]}


def measure_memory(setting: Setting) -> Row:
    """Bytes more with the second number of registered tasks than with the first, each asked once."""
    found = []
    for count in setting.counts:
        where = setting.parent / f"state-{count}.db"
        names = register(where, list(setting.tasks), count)
        port = free_port()
        command: list[str | Path] = [
            "tunewright",
            "serve",
            "--state",
            where,
            "--port",
            str(port),
            "--prefix-cache",
            "4MB",
        ]
        with server(command, port, "/readyz") as process:
            turns = setting.counts[1] // count
            with ThreadPoolExecutor(8) as clients:  # as many requests whatever the number of tasks
                list(clients.map(lambda k: ask_once(port, names[k::8] * turns, texts()), range(8)))  # noqa: B023
            found.append(resident_bytes(process))
    return {"registered": setting.counts, "resident_bytes": found, "growth_bytes": found[1] - found[0]}


PARTS: dict[str, Callable[[Setting], Row]] = {
    "mixed": measure_mixed,
    "latency": measure_latency,
    "loras": measure_loras,
    "first-token": measure_first_token,
    "added": measure_added,
    "memory": measure_memory,
}
ONLY = {"first-token": "gpt2", "added": "minilm", "memory": "minilm"}
"""Parts that are measured with one base alone."""


def run(given: argparse.Namespace, kind: str, parts: Sequence[str], known: Path | None) -> None:
    """Some parts of one base; each is printed, and appended to the file."""
    quick = bool(given.quick)
    with tempfile.TemporaryDirectory() as parent:
        name = gpt2(Path(parent)) if kind == "gpt2" else MODEL
        dtype = fast_dtype() if given.dtype is None else getattr(torch, given.dtype)
        base = open_backbone(load_checkpoint(name), dtype=dtype, device=torch.device("cpu"))
        setting = Setting(
            kind=kind,
            model=name if kind == "gpt2" else saved(base, Path(parent) / "model"),
            base=base,
            parent=Path(parent),
            num_tasks=10 if quick else given.tasks,
            counts=(10, 200) if quick else (100, 10_000),
            seconds=1.0 if quick else given.seconds,
        )
        for part in parts:
            head = {"model": kind, "part": part, "dtype": str(dtype), "threads": torch.get_num_threads()}
            start_s = time.perf_counter()
            line = json.dumps(head | PARTS[part](setting) | {"took_s": round(time.perf_counter() - start_s, 1)})
            print(line, flush=True)
            if known is not None:
                with known.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("minilm", "gpt2"), action="append", help="both when absent")
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="all when absent")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement under load")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="the fastest here when absent")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="file of JSON lines, to which what it has not is appended")
    given = parser.parse_args()
    lines = given.json.read_text(encoding="utf-8").splitlines() if given.json and given.json.exists() else []
    done = {(line["model"], line["part"]) for line in map(json.loads, lines)}
    for kind in given.model or ("minilm", "gpt2"):
        parts = [p for p in given.part or PARTS if ONLY.get(p, kind) == kind and (kind, p) not in done]
        if parts:
            run(given, kind, parts, given.json)


if __name__ == "__main__":
    main()
