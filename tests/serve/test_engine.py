"""The engine without HTTP: mixing, fairness, bases and bytes in memory, its end."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests import tiny
from tests.serve.live import ABOUT
from tunewright.adapters import folder
from tunewright.errors import AdapterError
from tunewright.serve.ask import Ask, Event, Label, Reply, Told
from tunewright.serve.cache import Cache
from tunewright.serve.engine import Engine
from tunewright.serve.faults import Fault
from tunewright.serve.passes import split_by_length
from tunewright.serve.predictor import Predictor
from tunewright.serve.tasks import Served
from tunewright.serve.waiting import Waiting
from tunewright.types import Example

TEXTS = [example.text for example in tiny.examples(14, seed=8)]


class Bench:
    """An engine, its queue and all that it has told."""

    def __init__(self, *, max_batch: int = 64, limit_bytes: int = 2**29, max_bases: int = 2) -> None:
        self.waiting = Waiting(10_000)
        self.cache = Cache(limit_bytes=limit_bytes, max_bases=max_bases, on_loaded=self.waiting.wake)
        self.told: list[tuple[Ask, Event]] = []
        self.batches: list[int] = []
        self.changed = threading.Condition()
        self.engine = Engine(
            self.cache,
            self.waiting,
            self._tell,
            max_batch=max_batch,
            note_batch=lambda rows, _tokens: self.batches.append(rows),
        )

    def _tell(self, told: Told) -> None:
        with self.changed:
            self.told += told
            self.changed.notify_all()

    def run(self, asks: list[Ask]) -> dict[Ask, Event]:
        """What became of some rows, all of which wait before the engine begins."""
        for each in {ask.served for ask in asks}:
            self.load(each)
        self.waiting.put(asks)
        self.engine.start()
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.told) >= len(asks), 60)
        self.engine.close(10)
        return dict(self.told)

    def load(self, served: Served) -> None:
        """Loads an adapter, unless it cannot be."""
        for _ in range(1000):
            if self.cache.get(served) is not None:
                return
            threading.Event().wait(0.01)
        raise AssertionError("never loaded")


def asks_of(name: str, path: Path | str, texts: list[str]) -> list[Ask]:
    served = Served(task=name, version=1, folder=str(path))
    return [Ask(served=served, example=Example(id=str(k), text=t), reply=Reply()) for k, t in enumerate(texts)]


@pytest.fixture
def bench() -> Callable[..., Bench]:
    asyncio.set_event_loop(None)
    return Bench


def test_rows_of_all_tasks_share_passes(
    bench: Callable[..., Bench], task_folders: list[str], tiny_folder: Callable[[str], Path]
) -> None:
    """448 rows of 32 tasks in 7 batches, each split by length alone: as `predict` has them."""
    lanes = {path: asks_of(Path(path).name, path, TEXTS) for path in task_folders}
    rig = bench()
    found = rig.run([ask for lane in lanes.values() for ask in lane])
    assert sum(rig.batches) == 448
    assert len(rig.batches) <= 7 * 4
    for path, lane in lanes.items():
        predictor = Predictor.load(Path(path), model=str(tiny_folder("bert")))
        for ask, expected in zip(lane, predictor.predict(TEXTS), strict=True):
            event = found[ask]
            assert isinstance(event, Label)
            assert event.label == expected.label
            assert event.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


def test_a_noisy_task_starves_nobody(bench: Callable[..., Bench], task_folders: list[str]) -> None:
    """Three rows that come after a thousand of another task are among the first answered."""
    rig = bench(max_batch=8)
    noisy = asks_of("noisy", task_folders[0], TEXTS[:1] * 1000)
    quiet = asks_of("quiet", task_folders[1], TEXTS[:3])
    found = rig.run([*noisy, *quiet])
    order = list(found)
    assert max(order.index(ask) for ask in quiet) < 8
    assert len(found) == 1003


def test_silent_rows_wait_for_all_others(bench: Callable[..., Bench], task_folders: list[str]) -> None:
    """Though they came first; and there is room for so many only."""
    rig = bench(max_batch=8)
    silent = [replace(ask, is_silent=True) for ask in asks_of("shadow", task_folders[0], TEXTS[:5] * 5)]
    live = asks_of("live", task_folders[1], TEXTS[:4] * 5)
    for each in (silent[0], live[0]):
        rig.load(each.served)
    assert rig.waiting.put_silent(silent)
    assert not rig.waiting.put_silent(asks_of("shadow", task_folders[0], TEXTS[:1] * 250))
    rig.waiting.put(live)
    rig.engine.start()
    with rig.changed:
        assert rig.changed.wait_for(lambda: len(rig.told) >= 45, 60)
    rig.engine.close(10)
    assert {ask for ask, _ in rig.told[:20]} == set(live)
    assert {ask for ask, _ in rig.told[20:]} == set(silent)
    assert all(isinstance(event, Label) for _, event in rig.told)


def test_who_was_just_answered_shares_the_next_pass(task_folders: list[str]) -> None:
    """Rows of clients that ask again are taken together, unless that takes too long or the queue is closed."""
    first, *more = asks_of("task", task_folders[0], TEXTS[:4])

    def take(waiting: Waiting, room: int = 64) -> list[Ask]:
        return [ask for ask, _ in waiting.take(room, lambda _: AdapterError("none")) or []]

    def waiting_for(rows: int, seconds: float) -> Waiting:
        waiting = Waiting(10)
        waiting.note_answered(rows, seconds)
        waiting.put([first])
        return waiting

    waiting = waiting_for(rows=3, seconds=1e4)
    for k, ask in enumerate(more, 1):
        threading.Timer(0.1 * k, waiting.put, [[ask]]).start()
    assert take(waiting)[:3] == [first, *more[:2]]
    assert take(waiting_for(rows=3, seconds=1e-3)) == [first]
    assert take(waiting_for(rows=3, seconds=1e4), room=1) == [first]
    closed = waiting_for(rows=3, seconds=1e4)
    threading.Timer(0.2, closed.close).start()
    assert take(closed) == [first]


def test_cancelled_rows_are_not_run(bench: Callable[..., Bench], task_folders: list[str]) -> None:
    rig = bench()
    gone, kept = (asks_of(name, task_folders[0], TEXTS) for name in ("gone", "kept"))
    rig.load(kept[0].served)
    rig.waiting.put([*gone, *kept])
    rig.waiting.cancel(gone)
    assert len(rig.waiting) == len(kept)
    found = rig.run([])
    rig.engine.close(10)
    assert set(found) <= set(kept)
    assert sum(rig.batches) == len(kept)


def test_what_waits_at_the_end_is_answered_and_what_comes_later_refused(
    bench: Callable[..., Bench], task_folders: list[str]
) -> None:
    rig = bench(max_batch=1)
    asks = asks_of("task", task_folders[0], TEXTS)
    rig.waiting.put(asks)
    rig.engine.start()
    rig.engine.close(30)
    assert all(isinstance(event, Label) for _, event in rig.told)
    assert len(rig.told) == len(asks)
    with pytest.raises(Fault, match="the server is ending"):
        rig.waiting.put(asks)


def test_adapters_leave_when_bytes_run_out(bench: Callable[..., Bench], task_folders: list[str]) -> None:
    """The least recently used one first; what is held never exceeds the limit."""
    served = [asks_of(Path(path).name, path, TEXTS[:1])[0].served for path in task_folders]
    sizes = [folder.load(Path(path)).num_bytes() for path in task_folders]
    rig = bench(limit_bytes=sum(sizes[:3]))
    for each in served[:3]:
        rig.load(each)
    rig.load(served[0])
    assert rig.cache.num_bytes == sum(sizes[:3])
    rig.load(served[8])  # a head like the first: one must leave
    assert rig.cache.num_bytes <= sum(sizes[:3])
    misses = rig.cache.counts["misses"]
    rig.load(served[0])
    assert rig.cache.counts["misses"] == misses, "the one used last has left"
    rig.load(served[1])
    assert rig.cache.counts["misses"] == misses + 1
    rig.cache.close()


def _with_weights(path: Path, kind: Path, seed: int) -> Path:
    base = tiny.encoder(kind)
    adapter = tiny.adapter(base, weights=tiny.weights(base, seed, [1, 2, 3]))
    folder.save(adapter.with_about(ABOUT), path)
    return path


def test_weights_of_their_own_count_as_bases(
    bench: Callable[..., Bench], tiny_folder: Callable[[str], Path], task_folders: list[str], tmp_path: Path
) -> None:
    """With two bases in memory, two such tasks take turns; answers stay those of `predict`."""
    model = tiny_folder("bert")
    paths = [_with_weights(tmp_path / f"full-{k}", model, 40 * k) for k in range(2)]
    rig = bench(max_bases=2)
    asks = [ask for path in [*paths, Path(task_folders[1])] for ask in asks_of(path.name, path, TEXTS[:4])]
    found = rig.run(asks)
    assert rig.cache.num_bases == 2
    for path in paths:
        wanted = Predictor.load(path, model=str(model)).predict(TEXTS[:4])
        mine = [found[ask] for ask in asks if ask.served.task == path.name]
        for event, expected in zip(mine, wanted, strict=True):
            assert isinstance(event, Label)
            assert event.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


def test_weights_of_their_own_need_room(
    bench: Callable[..., Bench], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = _with_weights(tmp_path / "full", tiny_folder("bert"), 3)
    (event,) = bench(max_bases=1).run(asks_of("full", path, TEXTS[:1])).values()
    assert isinstance(event, AdapterError)
    assert "--max-bases 2" in str(event)


def test_another_base_takes_the_place_of_the_first(
    bench: Callable[..., Bench], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    paths: list[Path] = []
    for kind in ("bert", "roberta", "bert"):
        base = tiny.encoder(tiny_folder(kind))
        paths.append(tmp_path / f"{kind}-{len(paths)}")
        folder.save(tiny.adapter(base).with_about(ABOUT), paths[-1])
    rig = bench(max_bases=1)
    found = rig.run([ask for path in paths for ask in asks_of(path.name, path, TEXTS[:2])])
    assert len(found) == 6
    assert all(isinstance(event, Label) for event in found.values())
    assert rig.cache.num_bases == 1


def test_another_adapter_than_was_registered(bench: Callable[..., Bench], task_folders: list[str]) -> None:
    rig = bench()
    served = Served(task="task", version=1, folder=task_folders[0], sha256="0" * 64)
    ask = Ask(served=served, example=Example(id="1", text="soup"), reply=Reply())
    (event,) = rig.run([ask]).values()
    assert isinstance(event, AdapterError)
    assert "not what was registered" in str(event)


def _cost(passes: list[list[int]], lengths: list[int], pass_tokens: int) -> int:
    return sum(pass_tokens + len(each) * max(lengths[k] for k in each) for each in passes)


@pytest.mark.parametrize("seed", range(6))
def test_splits_cost_least(seed: int) -> None:
    """Against every split of the sorted rows, by brute force."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 40, size=9).tolist()
    found = split_by_length(lengths, pass_tokens=20, batch_tokens=120)
    assert sorted(k for each in found for k in each) == list(range(9))
    order = sorted(range(9), key=lambda k: -lengths[k])
    best = None
    for bits in range(2**8):
        cuts = [0, *(k + 1 for k in range(8) if bits >> k & 1), 9]
        split = [order[a:b] for a, b in zip(cuts, islice(cuts, 1, None), strict=False)]
        if all(len(each) == 1 or len(each) * max(lengths[k] for k in each) <= 120 for each in split):
            cost = _cost(split, lengths, 20)
            best = cost if best is None else min(best, cost)
    assert _cost(found, lengths, 20) == best
