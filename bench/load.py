"""A load generator: as many clients as are wanted, each with one request at a time, over plain sockets.

It costs little beside the server that it measures, and checks every answer.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request."""

    path: str
    body: bytes

    @classmethod
    def of(cls, task: str, text: str) -> "Asked":
        """A row for a task."""
        return cls(path=f"/v1/tasks/{task}/predict", body=json.dumps({"text": text}).encode())


@dataclass(frozen=True, kw_only=True)
class Load:
    """How a server did."""

    clients: int
    requests: int
    requests_per_s: float
    requests_per_cpu_s: float
    """Of the server's own processor time: what a busy machine disturbs least."""
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server on this machine."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """Processor time so far, of all its threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(target: Target, asked: Sequence[Asked], *, clients: int, seconds: float) -> Load:
    """Asks in the given order, again and again, until the time is over."""
    return asyncio.run(_run(target, asked, clients, seconds))


async def _run(target: Target, asked: Sequence[Asked], clients: int, seconds: float) -> Load:
    turns = _forever(asked)
    end_s = time.perf_counter() + seconds
    start_s, start_cpu_s = time.perf_counter(), target.cpu_s()
    found = await asyncio.gather(*(_client(target.port, turns, end_s) for _ in range(clients)))
    passed_s = time.perf_counter() - start_s
    times_ms = 1000 * np.concatenate([np.array(each) for each in found])
    p50_ms, p95_ms, p99_ms = (float(np.quantile(times_ms, share)) for share in (0.5, 0.95, 0.99))
    return Load(
        clients=clients,
        requests=len(times_ms),
        requests_per_s=len(times_ms) / passed_s,
        requests_per_cpu_s=len(times_ms) / (target.cpu_s() - start_cpu_s),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
    )


def _forever(asked: Sequence[Asked]) -> Iterator[Asked]:
    while True:
        yield from asked


async def _client(port: int, turns: Iterator[Asked], end_s: float) -> list[float]:
    """Seconds of each request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds = []
    while time.perf_counter() < end_s:
        one = next(turns)
        start_s = time.perf_counter()
        head = f"POST {one.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(one.body)}\r\n\r\n".encode() + one.body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server refused: {body.decode()}")
        seconds.append(time.perf_counter() - start_s)
    writer.close()
    return seconds
