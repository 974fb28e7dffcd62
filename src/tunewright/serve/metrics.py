"""What Prometheus is told: per task requests, errors, latency, tokens, labels; of the engine queue, batches, cache."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from tunewright.serve.ask import Label, Whole, Written

MAX_TASKS = 200
"""Tasks with figures of their own; those asked later share `OTHERS`, so that ten thousand tasks fill no memory."""

OTHERS = "(others)"
MAX_LABELS = 50
"""Labels counted of each task."""

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of a task, since the server began."""

    requests: int = 0
    failed: int = 0
    rows: int = 0
    mean_ms: float | None = None
    """Of a request, from its first byte to its last."""


NO_FIGURES = Figures()
"""Of a task that nobody has asked yet."""


class Metrics:
    """Counters and histograms of one server.

    Args:
        waiting: Rows that wait now.
        cache_bytes: Of the adapters in memory.
        cache_counts: Hits, misses, evictions.
    """

    def __init__(
        self, waiting: Callable[[], int], cache_bytes: Callable[[], int], cache_counts: Callable[[], Mapping[str, int]]
    ) -> None:
        self._registry, self._waiting = CollectorRegistry(), waiting
        self._tasks: set[str] = set()
        self._labels: dict[str, set[str]] = {}
        registry = self._registry
        self._requests = Counter("tunewright_requests", "Requests by status.", ["task", "status"], registry=registry)
        self._rows = Counter("tunewright_rows", "Rows answered.", ["task"], registry=registry)
        self._tokens = Counter("tunewright_tokens", "Text, prefix, written.", ["task", "kind"], registry=registry)
        self._answers = Counter("tunewright_answers", "Answers by label.", ["task", "label"], registry=registry)
        self._latency = Histogram("tunewright_latency_seconds", "", ["task"], buckets=_SECONDS, registry=registry)
        self._confidence = Histogram(
            "tunewright_confidence",
            "Probability of the label answered.",
            ["task"],
            buckets=_CONFIDENCE,
            registry=registry,
        )
        self._batch_rows = Histogram("tunewright_batch_rows", "Rows of a pass.", buckets=_ROWS, registry=registry)
        self._left_out = Counter("tunewright_shadow_rows_left_out", "The server was busy.", registry=registry)
        self._batch_tokens = Counter("tunewright_batch_tokens", "Tokens of all passes.", registry=registry)
        Gauge("tunewright_waiting_rows", "Rows that wait.", registry=registry).set_function(waiting)
        Gauge("tunewright_cache_bytes", "Of adapters in memory.", registry=registry).set_function(cache_bytes)
        self._registry.register(_CacheCounts(cache_counts))

    def note_request(self, task: str | None, status: int, seconds: float) -> None:
        """A request that has ended; None where it names no task that is there."""
        name = self._name(task)
        self._requests.labels(name, str(status)).inc()
        self._latency.labels(name).observe(seconds)

    def note_batch(self, rows: int, tokens: int) -> None:
        """A pass."""
        self._batch_rows.observe(rows)
        self._batch_tokens.inc(tokens)

    def note_left_out(self, rows: int) -> None:
        """Rows that no version in shadow has answered: there was no time for them."""
        self._left_out.inc(rows)

    def note_row(self, task: str, row: Whole) -> None:
        """A row that was answered."""
        name = self._name(task)
        self._rows.labels(name).inc()
        self._tokens.labels(name, "text").inc(row.usage.text_tokens)
        self._tokens.labels(name, "prefix").inc(row.usage.prefix_tokens)
        if isinstance(row, Label):
            self._note_label(name, row)
        elif isinstance(row, Written):
            self._tokens.labels(name, "written").inc(len(row.pieces))

    def _note_label(self, name: str, label: Label) -> None:
        known = self._labels.setdefault(name, set())
        if label.label not in known and len(known) < MAX_LABELS and name != OTHERS:
            known.add(label.label)
        self._answers.labels(name, label.label if label.label in known else OTHERS).inc()
        self._confidence.labels(name).observe(max(label.probabilities))

    def figures(self) -> dict[str, Figures]:
        """Of each task with figures of its own, for the page."""
        sums: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        for metric in (self._requests, self._rows, self._latency):
            for family in metric.collect():
                for sample in family.samples:
                    task = sums[sample.labels["task"]]
                    task[sample.name] += sample.value
                    if sample.name == "tunewright_requests_total" and sample.labels["status"] >= "400":
                        task["failed"] += sample.value
        return {task: _figures(found) for task, found in sums.items()}

    def waiting_rows(self) -> int:
        """Rows that wait now."""
        return self._waiting()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _name(self, task: str | None) -> str:
        if task is None:
            return ""
        if task not in self._tasks and len(self._tasks) < MAX_TASKS:
            self._tasks.add(task)
        return task if task in self._tasks else OTHERS


def _figures(sums: Mapping[str, float]) -> Figures:
    count = sums["tunewright_latency_seconds_count"]
    return Figures(
        requests=int(count),
        failed=int(sums["failed"]),
        rows=int(sums["tunewright_rows_total"]),
        mean_ms=1000 * sums["tunewright_latency_seconds_sum"] / count if count else None,
    )


class _CacheCounts(Collector):
    """Counters that the cache keeps itself."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> list[CounterMetricFamily]:
        return [
            CounterMetricFamily(f"tunewright_cache_{name}", f"Of adapters in memory: {name}.", value=value)
            for name, value in self._counts().items()
        ]
