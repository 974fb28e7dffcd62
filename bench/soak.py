"""A server under load while it is killed, promoted and spoken to: nothing acknowledged is lost, no answer is another's.

    python -m bench.soak [--minutes 10 --json F]
    python -m bench.soak --quick

One server of a registry, in a process of its own, with four clients. In the first half it is killed every few seconds,
mostly with SIGKILL, and begins again; in the second it lives on, and its memory is looked at. All the while another
process promotes and rolls back. Each answer is held against that of the version it names, computed beforehand, and that
version against those that were live while it was asked.
"""

import argparse
import contextlib
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import EXAMPLE
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Head, SoftPrompt
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.errors import RegistryError
from tunewright.files import write_json
from tunewright.releases.state import State
from tunewright.serve.predictor import Predictor

TASK, LABELS = "messages", ("a", "b", "c")
NUM_VERSIONS, NUM_TEXTS, NUM_CLIENTS = 4, 60, 4
SEEN_WITHIN_S = 3.0
"""A server looks for changes every half second; on a busy machine it may be late."""
MAX_GROWTH = 0.05
"""Of resident memory over the second half, which also fills what is remembered of answers."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was counted; the first five must be zero."""

    wrong_answers: int
    wrong_versions: int
    lost_feedback: int
    lost_promotions: int
    unexpected_errors: int
    answers: int
    feedback: int
    promotions: int
    kills: int
    terminations: int
    refused: int
    """Requests that met a dead or a loading server."""
    resident_bytes: tuple[int, int]
    """A fifth into the second half, and at its end."""
    seconds: float

    @property
    def growth(self) -> float:
        """Of memory, as a share."""
        return self.resident_bytes[1] / self.resident_bytes[0] - 1

    @property
    def passed(self) -> bool:
        """Whether nothing went wrong."""
        wrong = (self.wrong_answers, self.wrong_versions, self.lost_feedback, self.lost_promotions)
        return not any(wrong) and self.unexpected_errors == 0 and self.growth <= MAX_GROWTH


@dataclass(kw_only=True)
class Story:
    """What clients and the promoter have seen, each list appended to by several threads."""

    live: list[tuple[float, float, int]] = field(default_factory=list)
    """(asked at, done at, version) of each promotion."""
    promoted: list[int] = field(default_factory=list)
    answers: list[tuple[float, float, int, int, tuple[float, ...]]] = field(default_factory=list)
    """(asked at, answered at, version, text, probabilities)."""
    said: dict[str, str] = field(default_factory=dict)
    """Request id -> verdict, acknowledged."""
    refused: int = 0
    errors: list[str] = field(default_factory=list)


def make_versions(home: Path, texts: Sequence[str], state: State) -> list[list[tuple[float, ...]]]:
    """Registers adapters, and returns what each answers: probabilities by version and text."""
    base = open_backbone(load_checkpoint("embedded"), dtype=torch.float32, device=torch.device("cpu"))
    expected = []
    for number in range(1, NUM_VERSIONS + 1):
        generator = torch.Generator().manual_seed(number)
        head = Head(weight_CD=torch.randn(3, base.width, generator=generator) * 8, bias_C=torch.zeros(3))
        prompt = SoftPrompt(vectors_PD=torch.randn(5 * number, base.width, generator=generator) * 0.05)
        adapter = Adapter(
            base=base.identity,
            labels=LABELS,
            max_tokens=128,
            head=head,
            soft_prompt=prompt if number % 2 else None,
            about={"columns": {"text": "text", "label": "label"}, "dtype": "float32"},
        )
        folder.save(adapter, home / f"v{number}")
        state.add(TASK, home / f"v{number}")
        expected.append([p.probabilities for p in Predictor(adapter, base).predict(texts)])
    return expected


class Server:
    """One that can be killed and begins again at the same port."""

    def __init__(self, home: Path) -> None:
        self._home, self.port = home, 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Until it is ready."""
        command = [sys.executable, "-m", "tunewright", "serve", "--state", str(self._home / "state.db")]
        log = (self._home / "log.txt").open("a")
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        while not self._is_ready():
            time.sleep(0.1)

    def end(self, number: int) -> int:
        """Its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def resident_bytes(self) -> int:
        """Memory in use."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Sends a request; raises OSError where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return json.load(reply)

    def _is_ready(self) -> bool:
        try:
            self.ask("/readyz")
        except OSError:
            return False
        return True


def client(server: Server, texts: Sequence[str], story: Story, stop: threading.Event, seed: int) -> None:
    """Asks, and speaks of every third answer."""
    rng = random.Random(seed)
    while not stop.is_set():
        k, asked_s = rng.randrange(len(texts)), time.monotonic()
        try:
            found = server.ask(f"/v1/tasks/{TASK}/predict", {"text": texts[k]})
            answer = found["answers"][0]
            probabilities = tuple(answer["probabilities"][label] for label in LABELS)
            story.answers.append((asked_s, time.monotonic(), found["version"], k, probabilities))
            if rng.random() < 1 / 3:
                verdict = rng.choice(("right", "wrong"))
                kept = server.ask("/v1/feedback", {"request_id": answer["id"], "verdict": verdict, "text": texts[k]})
                story.said[kept["request_id"]] = verdict
        except urllib.error.HTTPError as error:
            if error.code in (429, 503):
                story.refused += 1
            else:
                story.errors.append(f"{error.code} {error.read()[:200]!r}")
        except (OSError, ValueError, EOFError):  # no server, or one that was killed while it spoke
            story.refused += 1
            time.sleep(0.05)
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            story.errors.append(repr(error))


def promote(state: State, story: Story, stop: threading.Event) -> None:
    """Makes another version live every second or so, or goes back."""
    rng = random.Random(7)
    while not stop.wait(rng.uniform(0.5, 2.0)):
        live, asked_s = state.live(TASK), time.monotonic()
        assert live is not None
        if rng.random() < 0.25 and len(story.promoted) > 2:
            with contextlib.suppress(RegistryError):  # nothing earlier is left
                done = state.rollback(TASK)
                story.live.append((asked_s, time.monotonic(), done.version))
                story.promoted.append(done.version)
            continue
        other = rng.choice([k for k in range(1, NUM_VERSIONS + 1) if k != live.version])
        state.promote(TASK, other, reason="soak", expected=live.version, forced=True)
        story.live.append((asked_s, time.monotonic(), other))
        story.promoted.append(other)


def disturb(server: Server, seconds: float, kill_every_s: float) -> tuple[int, int]:
    """Kills it again and again; returns kills and gentle ends."""
    rng, until_s, counts = random.Random(11), time.monotonic() + seconds, [0, 0]
    while time.monotonic() < until_s:
        time.sleep(rng.uniform(0.3, 1.7) * kill_every_s)
        gently = rng.random() < 0.2
        code = server.end(signal.SIGTERM if gently else signal.SIGKILL)
        assert not gently or code == 0, f"SIGTERM ended with {code}"
        counts[gently] += 1
        server.start()
    return counts[0], counts[1]


def wrong_versions(story: Story) -> int:
    """Answers by a version that was live at no time while they were asked, nor shortly before."""
    began = [(asked, done, version) for asked, done, version in story.live]
    count = 0
    for asked_s, answered_s, version, _, _ in story.answers:
        spans = [
            began[i][0] <= answered_s and (i + 1 == len(began) or began[i + 1][1] + SEEN_WITHIN_S >= asked_s)
            for i in range(len(began))
            if began[i][2] == version
        ]
        count += not any(spans)
    return count


@contextlib.contextmanager
def running(threads: Sequence[threading.Thread], stop: threading.Event) -> Iterator[None]:
    """They run while the block does."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def soak(home: Path, seconds: float, kill_every_s: float) -> Result:
    """The whole of it."""
    with EXAMPLE.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:NUM_TEXTS]
    state, story, stop, server = State.open(str(home / "state.db")), Story(), threading.Event(), Server(home)
    expected = make_versions(home, texts, state)
    state.promote(TASK, 1, reason="soak", expected=None)
    story.live.append((0.0, time.monotonic(), 1))
    story.promoted.append(1)
    server.start()
    arguments = [(server, texts, story, stop, k) for k in range(NUM_CLIENTS)]
    threads = [threading.Thread(target=client, args=each) for each in arguments]
    began_s = time.monotonic()
    with running([*threads, threading.Thread(target=promote, args=(state, story, stop))], stop):
        kills, terminations = disturb(server, seconds / 2, kill_every_s)
        time.sleep(seconds / 10)
        early = server.resident_bytes()
        time.sleep(seconds * 4 / 10)
        late = server.resident_bytes()
    server.end(signal.SIGTERM)
    state.close()
    again = State.open(str(home / "state.db"))
    kept = {each.request_id: each.verdict for each in again.feedback(TASK)}
    history = [each.version for each in again.promotions(TASK)]
    again.close()
    for error in story.errors[:5]:
        print("unexpected:", error)
    return Result(
        wrong_answers=sum(
            max(abs(a - b) for a, b in zip(found, expected[version - 1][k], strict=True)) > 1e-4
            for _, _, version, k, found in story.answers
        ),
        wrong_versions=wrong_versions(story),
        lost_feedback=sum(kept.get(name) != verdict for name, verdict in story.said.items()),
        lost_promotions=int(history != story.promoted),
        unexpected_errors=len(story.errors),
        answers=len(story.answers),
        feedback=len(story.said),
        promotions=len(story.promoted),
        kills=kills,
        terminations=terminations,
        refused=story.refused,
        resident_bytes=(early, late),
        seconds=time.monotonic() - began_s,
    )


def main() -> None:
    """Prints what was counted; exit code 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kill-every", type=float, default=8, help="seconds, in the mean, of the first half")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="half a minute")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        result = soak(Path(home), 30 if given.quick else 60 * given.minutes, given.kill_every)
    for name, value in asdict(result).items():
        print(f"{name:20} {value}")
    print(f"{'growth':20} {100 * result.growth:+.1f}%")
    print("passed" if result.passed else "FAILED")
    if given.json is not None:
        write_json(given.json, asdict(result) | {"growth": result.growth, "passed": result.passed})
    sys.exit(not result.passed)


if __name__ == "__main__":
    main()
