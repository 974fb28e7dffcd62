"""Adapters and bases in memory: loaded beside the running batches, the least recently used dropped first."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.kinds import open_backbone
from tunewright.errors import AdapterError, TunewrightError
from tunewright.runtime import device
from tunewright.serve.predictor import dtype_of
from tunewright.serve.tasks import Served, unserved

_REMEMBERED_S = 5.0
"""For so long a version that could not be loaded is not tried again."""

_Key = tuple[str, str | None]
BaseKey = tuple[str, str, str]
"""Hashes of weights and tokenizer, and the precision."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """An adapter beside its base, ready to run."""

    adapter: Adapter
    backbone: Backbone
    num_bytes: int


Ready = Loaded | TunewrightError
"""What runs a row, or why nothing does."""


class Cache:
    """Adapters by folder and hash, and their bases.

    An adapter that mixes counts by its bytes, up to `limit_bytes`. A base counts as one of `max_bases`, and so does an
    adapter with weights of its own, whose rows share a pass with no other.

    Args:
        limit_bytes: Of adapters that mix, a single one that is larger being held alone; and again of the keys and
            values that each decoder keeps of their prefixes.
        max_bases: Bases and adapters with weights of their own.
        on_loaded: Called from the loading thread after each load.
        model: Where the base is, when not under the name it had in training.
    """

    def __init__(
        self, *, limit_bytes: int, max_bases: int, on_loaded: Callable[[], None], model: str | None = None
    ) -> None:
        self._limit_bytes, self._max_bases = limit_bytes, max_bases
        self._on_loaded, self._model = on_loaded, model
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="tunewright-load")
        self._loading: set[_Key] = set()
        self._failed: dict[_Key, tuple[TunewrightError, float]] = {}
        """Why a version could not be loaded, and until when that is remembered."""
        self._mixing: OrderedDict[_Key, Loaded] = OrderedDict()
        self._own: OrderedDict[_Key, Loaded] = OrderedDict()
        self._bases: OrderedDict[BaseKey, Backbone] = OrderedDict()
        self._bytes = 0
        self.counts = Counter(hits=0, misses=0, evictions=0)
        """How the cache has done so far."""

    @property
    def num_bytes(self) -> int:
        """Of the adapters that mix."""
        return self._bytes

    @property
    def num_bases(self) -> int:
        """Bases and adapters with weights of their own."""
        return len(self._bases) + len(self._own)

    def get(self, served: Served) -> Ready | None:
        """What runs a version, or why it cannot be run; None while it is being loaded."""
        key = (served.folder, served.sha256)
        with self._lock:
            for known in (self._mixing, self._own):
                if key in known:
                    known.move_to_end(key)
                    self.counts["hits"] += 1
                    return known[key]
            error, until_s = self._failed.get(key, (None, 0.0))
            if time.monotonic() < until_s:
                return error
            if key not in self._loading:
                self._loading.add(key)
                self.counts["misses"] += 1
                self._loader.submit(self._load, served)
        return None

    def close(self) -> None:
        """Ends the loading thread."""
        self._loader.shutdown(cancel_futures=True)

    def load(self, served: Served) -> Loaded:
        """Reads an adapter, checks it and puts it beside its base; only ever on the loading thread.

        Raises:
            AdapterError: Broken, changed, of another base, not served, or more bases than may be held.
            ModelError: Its base cannot be loaded.
        """
        adapter = folder.load(Path(served.folder))
        if served.sha256 is not None and adapter.sha256() != served.sha256:
            raise AdapterError(f"{served.folder} is not what was registered: its hash is another. Add it again.")
        fault = unserved(served.folder, adapter.base.name, adapter.parts())
        if fault is not None:
            raise AdapterError(fault)
        if not adapter.mixes and self._max_bases < 2:
            raise AdapterError(f"{served.folder} has weights of its own: it needs --max-bases 2 or more.")
        backbone = self._base_of(adapter, Path(served.folder))
        backbone.check(adapter)
        return Loaded(adapter=adapter, backbone=backbone, num_bytes=adapter.num_bytes())

    def _load(self, served: Served) -> None:
        key = (served.folder, served.sha256)
        try:
            loaded = self.load(served)
        except TunewrightError as error:
            self._note_failure(key, error)
        except Exception as error:  # noqa: BLE001 - a loader that dies would leave its rows waiting for ever
            self._note_failure(key, AdapterError(f"cannot load {served.folder}: {error!r}. Restore the folder."))
        else:
            with self._lock:
                self._keep(key, loaded)
        with self._lock:
            self._loading.discard(key)
        self._on_loaded()

    def _note_failure(self, key: _Key, error: TunewrightError) -> None:
        now_s = time.monotonic()
        with self._lock:
            self._failed = {k: failed for k, failed in self._failed.items() if failed[1] > now_s}
            self._failed[key] = error, now_s + _REMEMBERED_S

    def _base_of(self, adapter: Adapter, path: Path) -> Backbone:
        dtype = dtype_of(adapter, path)
        key = (adapter.base.sha256, adapter.base.tokenizer_sha256, str(dtype))
        with self._lock:
            if key in self._bases:
                self._bases.move_to_end(key)
                return self._bases[key]
            self._make_room(self._max_bases - 1)
        checkpoint = load_checkpoint(adapter.base.name if self._model is None else self._model)
        backbone = open_backbone(checkpoint, dtype=dtype, device=device(), prefix_bytes=self._limit_bytes)
        backbone.check(adapter)
        with self._lock:
            self._bases[key] = backbone
        return backbone

    def _keep(self, key: _Key, loaded: Loaded) -> None:
        """Puts an adapter in, and out what no longer fits."""
        if not loaded.adapter.mixes:
            self._make_room(self._max_bases - 1, spared=loaded.backbone)
            self._own[key] = loaded
            return
        self._mixing[key] = loaded
        self._bytes += loaded.num_bytes
        while self._bytes > self._limit_bytes and len(self._mixing) > 1:
            self._drop(next(iter(self._mixing)))

    def _make_room(self, most: int, *, spared: Backbone | None = None) -> None:
        """Drops weights of adapters, then bases with all that runs on them, until at most `most` are held."""
        while self._own and self.num_bases > most:
            self._own.popitem(last=False)
            self.counts["evictions"] += 1
        for key in [k for k, base in self._bases.items() if base is not spared]:
            if self.num_bases <= most:
                return
            backbone = self._bases.pop(key)
            self.counts["evictions"] += 1
            for gone in [k for k, loaded in self._mixing.items() if loaded.backbone is backbone]:
                self._drop(gone)

    def _drop(self, key: _Key) -> None:
        self._bytes -= self._mixing.pop(key).num_bytes
        self.counts["evictions"] += 1
