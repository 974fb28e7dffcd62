"""Many tasks from one base: requests a second, latencies, memory; PEFT beside it.

The load generator is this process, each server one of its own, both on this machine; the sides take turns.

    python -m bench.serving [--model minilm|gpt2 --tasks 100 --seconds 10 --json F]
    python -m bench.serving --quick

- mixed_over_single: soft prompts of all lengths in random order, against one task at a time. On an encoder a longer
  prompt is more work, so `single` is what the single tasks' rates at these lengths come to (their harmonic mean).
- over_peft_switching: the same requests against PEFT's `set_adapter` for each, at 32 clients.
- lora_over_peft_mixed: one batch of 32 rows with 32 LoRAs, without HTTP, against PEFT's `adapter_names`.
- growth_bytes: resident memory with 10,000 registered tasks, each asked once, less that with 100, at one cache limit.
"""

import argparse
import csv
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from bench import load
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Head, Lora, SoftPrompt
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.releases.state import State
from tunewright.releases.tables import tasks as task_table
from tunewright.releases.tables import versions
from tunewright.types import Example

LENGTHS = (5, 10, 20, 50, 100)
CLIENTS = (1, 8, 32)
MODEL = "embedded"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    model: str
    tasks: int
    mixed_over_single: float
    mixed_over_single_cpu: float
    """The same by the server's processor time, as all that ends in `_cpu`."""
    over_peft_switching: float
    over_peft_switching_cpu: float
    lora_over_peft_mixed: float
    growth_bytes: int | None
    """None where it was not measured."""
    registered: tuple[int, int]
    ready_s: float
    first_request_of_a_task_ms: float
    mixed: tuple[load.Load, ...]
    single: dict[int, float]
    """Length -> requests a second of one task, at 32 clients."""
    peft: load.Load
    threads: int


def texts() -> list[str]:
    """Messages of the example data."""
    with (ROOT / "examples" / "support" / "messages.csv").open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def save(base: Backbone, parent: Path, name: str, seed: int, **parts: Any) -> Path:
    """An adapter with a random head and the given parts."""
    rng = torch.Generator().manual_seed(seed)
    head = Head(weight_CD=torch.randn(4, base.width, generator=rng), bias_C=torch.zeros(4))
    adapter = Adapter(
        base=base.identity,
        labels=("a", "b", "c", "d"),
        max_tokens=base.max_tokens,
        head=head,
        about={"dtype": "float32"},
        **parts,
    )
    folder.save(adapter, parent / name)
    return parent / name


def soft_prompts(base: Backbone, parent: Path, count: int) -> dict[Path, int]:
    """Adapter folder -> length of its soft prompt."""
    width = base.word_embeddings.shape[1]
    found = {}
    for k in range(count):
        length = LENGTHS[k % len(LENGTHS)]
        vectors_PD = 0.05 * torch.randn(length, width, generator=torch.Generator().manual_seed(k))
        found[save(base, parent, f"soft-{k}", k, soft_prompt=SoftPrompt(vectors_PD=vectors_PD))] = length
    return found


def loras(base: Backbone, parent: Path, count: int, rank: int = 8) -> list[Path]:
    """Adapter folders of LoRAs on all linear layers of the attention."""
    rng = torch.Generator().manual_seed(1)
    found = []
    for k in range(count):
        some = {n: m for n, m in base.linears.items() if n.endswith(("query", "value", "c_attn"))}
        down = {n: 0.05 * torch.randn(rank, m.in_features, generator=rng) for n, m in some.items()}
        up = {n: 0.05 * torch.randn(m.out_features, rank, generator=rng) for n, m in some.items()}
        found.append(save(base, parent, f"lora-{k}", k, lora=Lora(alpha=16, down=down, up=up)))
    return found


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


def measure_ours(tasks: dict[Path, int], seconds: float) -> dict[str, Any]:
    """Ready, first requests, one task at a time, all mixed; rounds alternate, and each side counts by its median."""
    port, rows, names = free_port(), texts(), [path.name for path in tasks]
    start_s = time.perf_counter()
    with server(["tunewright", "serve", *tasks, "--port", str(port)], port, "/readyz") as process:
        ready_s = time.perf_counter() - start_s
        target = load.Target(port=port, pid=process.pid)
        first_ms = float(np.median(ask_once(port, names, rows)))
        single: dict[int, list[load.Load]] = {length: [] for length in LENGTHS}
        mixed: list[load.Load] = []
        for turn in range(3):
            for length in LENGTHS:
                name = next(path.name for path, own in tasks.items() if own == length)
                single[length].append(load.run(target, shuffled([name], rows, turn), clients=32, seconds=seconds / 3))
            mixed.append(load.run(target, shuffled(names, rows, turn), clients=32, seconds=seconds))
        loads = [load.run(target, shuffled(names, rows, 9), clients=c, seconds=seconds) for c in CLIENTS]
    return {
        "ready_s": ready_s,
        "first_request_of_a_task_ms": first_ms,
        "single": {length: _median(found, "requests_per_s") for length, found in single.items()},
        "mixed": tuple(loads),
        "mixed_over_single": _over_single(mixed, single, "requests_per_s"),
        "mixed_over_single_cpu": _over_single(mixed, single, "requests_per_cpu_s"),
        "rates": (_median(mixed, "requests_per_s"), _median(mixed, "requests_per_cpu_s")),
    }


def _median(found: Sequence[load.Load], name: str) -> float:
    return float(np.median([getattr(one, name) for one in found]))


def _over_single(mixed: Sequence[load.Load], single: dict[int, list[load.Load]], name: str) -> float:
    expected = len(single) / sum(1 / _median(found, name) for found in single.values())
    return _median(mixed, name) / expected


def measure_peft(model: str, tasks: dict[Path, int], seconds: float) -> load.Load:
    """`set_adapter` for each request."""
    port, rows, names = free_port(), texts(), [path.name for path in tasks]
    with server(["bench.peft_server", model, str(port), *tasks], port, "/openapi.json") as process:
        target = load.Target(port=port, pid=process.pid)
        load.run(target, shuffled(names, rows, 0), clients=8, seconds=min(2.0, seconds))
        return load.run(target, shuffled(names, rows, 1), clients=32, seconds=seconds)


def measure_loras(base: Backbone, model: str, folders: Sequence[Path], repeats: int) -> float:
    """Rows a second of a mixed batch, ours over PEFT's own; both give the same features."""
    rows = texts()[: len(folders)]
    encodings = base.encode([Example(id=str(k), text=text) for k, text in enumerate(rows)], base.max_tokens)
    ours = [Row(encoding=e, adapter=folder.load(p)) for e, p in zip(encodings, folders, strict=True)]
    wrapped: Any = None
    for path in folders:
        part = str(path / "peft" / "lora")
        if wrapped is None:
            plain = transformers.AutoModel.from_pretrained(model).eval()
            wrapped = peft.PeftModel.from_pretrained(plain, part, adapter_name=path.name)
        else:
            wrapped.load_adapter(part, adapter_name=path.name)
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
        torch.testing.assert_close(sides["ours"](), sides["theirs"](), atol=1e-4, rtol=1e-3)
        for _ in range(repeats):
            for name, run in sides.items():
                start_s = time.process_time()
                run()
                times[name].append(time.process_time() - start_s)
    return min(times["theirs"]) / min(times["ours"])


def measure_growth(tasks: dict[Path, int], parent: Path, counts: tuple[int, int]) -> int:
    """Bytes more with the second number of registered tasks than with the first, each asked once."""
    found = []
    for count in counts:
        where = parent / f"state-{count}.db"
        names = register(where, list(tasks), count)
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
            ask_once(port, names[:100] * 3, texts())
            ask_once(port, names, texts())
            found.append(resident_bytes(process))
    return found[1] - found[0]


def register(where: Path, folders: Sequence[Path], count: int) -> list[str]:
    """Tasks at version 1, over and over the same folders; all in one transaction."""
    state = State.open(str(where))
    names = [f"task-{k:05}" for k in range(count)]
    hashes = {path: folder.load(path) for path in folders}
    rows = [
        {
            "task": name,
            "version": 1,
            "folder": str(folders[k % len(folders)]),
            "adapter_sha256": hashes[folders[k % len(folders)]].sha256(),
            "base_name": MODEL,
            "base_sha256": hashes[folders[k % len(folders)]].base.sha256,
            "added_at": "",
            "added_by": "bench",
        }
        for k, name in enumerate(names)
    ]
    with state._database.writing() as connection:
        live = [{"name": name, "last_version": 1, "live": 1, "shadow_share": 0.0} for name in names]
        connection.execute(task_table.insert(), live)
        connection.execute(versions.insert(), rows)
    state.close()
    return names


def gpt2(parent: Path) -> str:
    """Random weights in the shape of GPT-2 124M, and a tokenizer made of the example texts."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.train_from_iterator(texts(), BpeTrainer(vocab_size=4000, special_tokens=["<|endoftext|>"]))
    end = "<|endoftext|>"
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)
    fast.save_pretrained(parent / "gpt2")
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(parent / "gpt2")
    return str(parent / "gpt2")


def measure(kind: str, num_tasks: int, seconds: float, counts: tuple[int, int], parent: Path) -> Result:
    """Everything, for one base; memory for MiniLM alone."""
    name = gpt2(parent) if kind == "gpt2" else MODEL
    base = open_backbone(load_checkpoint(name), dtype=torch.float32, device=torch.device("cpu"))
    model = name if kind == "gpt2" else _saved(base, parent / "model")
    tasks = soft_prompts(base, parent, num_tasks)
    ratio = measure_loras(base, model, loras(base, parent, 32), 3 if seconds < 5 else 20)
    ours = measure_ours(tasks, seconds)
    theirs = measure_peft(model, tasks, seconds)
    growth = measure_growth(tasks, parent, counts) if kind == "minilm" else None
    rate, rate_cpu = ours.pop("rates")
    return Result(
        model=kind,
        tasks=num_tasks,
        over_peft_switching=rate / theirs.requests_per_s,
        over_peft_switching_cpu=rate_cpu / theirs.requests_per_cpu_s,
        lora_over_peft_mixed=ratio,
        growth_bytes=growth,
        registered=counts,
        peft=theirs,
        threads=torch.get_num_threads(),
        **ours,
    )


def _saved(base: Backbone, path: Path) -> str:
    """The embedded model as a folder that PEFT's side can load."""
    base._masters.save_pretrained(path)  # type: ignore[operator]
    base._checkpoint.tokenizer.save_pretrained(path)
    return str(path)


def show(result: Result) -> None:
    """The table."""
    print(f"{result.model}, {result.tasks} soft-prompt tasks, {result.threads} thread(s)")
    print(f"{'':24}{'requests/s':>12}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
    for one in result.mixed:
        name = f"all tasks, {one.clients} clients"
        print(f"{name:24}{one.requests_per_s:12.1f}{one.p50_ms:10.1f}{one.p95_ms:10.1f}{one.p99_ms:10.1f}")
    for length, rate in result.single.items():
        print(f"{f'one task, {length} vectors':24}{rate:12.1f}")
    one = result.peft
    print(f"{'PEFT, 32 clients':24}{one.requests_per_s:12.1f}{one.p50_ms:10.1f}{one.p95_ms:10.1f}{one.p99_ms:10.1f}")
    print(f"mixed over single: {result.mixed_over_single:.2f}, by processor time {result.mixed_over_single_cpu:.2f}")
    ratios = f"{result.over_peft_switching:.1f}x, by processor time {result.over_peft_switching_cpu:.1f}x"
    print(f"over PEFT with set_adapter: {ratios}")
    print(f"LoRA over PEFT's mixed batch: {result.lora_over_peft_mixed:.1f}x")
    few, many = result.registered
    if result.growth_bytes is not None:
        print(f"memory from {few} to {many} tasks: {result.growth_bytes / 2**20:+.1f} MB")
    print(f"ready in {result.ready_s:.1f} s, first request of a task in {result.first_request_of_a_task_ms:.0f} ms")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("minilm", "gpt2"), default="minilm")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement under load")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    quick = bool(given.quick)
    num_tasks, seconds = (10, 1.0) if quick else (given.tasks, given.seconds)
    with tempfile.TemporaryDirectory() as parent:
        result = measure(given.model, num_tasks, seconds, (10, 200) if quick else (100, 10_000), Path(parent))
    show(result)
    if given.json is not None:
        given.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
