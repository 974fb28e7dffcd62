"""Nearest demonstrations against random ones: an encoder's few-shot votes, on the same test rows.

    python -m bench.demonstrations path/to/banking77 path/to/trec [--shots 8 --draws 5] [--json F]
    python -m bench.demonstrations --quick

Each test row is answered by the votes of the training rows nearest to it, as `few-shot` does on an encoder, and by the
votes of as many training rows drawn at random, weighted alike; several draws are averaged. The interval is that of the
paired difference over the test rows (10,000 resamples, percentiles).

Shapes: N test rows, P pool rows, D width, C labels, R resamples.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import EXAMPLE
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import DemonstrationPool
from tunewright.backbones.answers import unit
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.backbones.kinds import open_backbone
from tunewright.config import EMBEDDED_MODEL, load_config
from tunewright.data.load import load_dataset
from tunewright.files import write_json
from tunewright.types import Dataset, Example

TEMPERATURE, RESAMPLES = 0.1, 10_000


@dataclass(frozen=True, kw_only=True)
class Line:
    """One data set."""

    data: str
    pool: int
    test: int
    shots: int
    nearest: float
    random: float
    difference: float
    low: float
    high: float

    def said(self) -> str:
        """As a row of the table."""
        gain = f"{100 * self.difference:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"| {self.data} | {self.pool} | {self.test} | {self.nearest:.3f} | {self.random:.3f} | {gain} |"


def is_right(
    store: FeatureStore, data: Dataset, rows: tuple[Example, ...], shots: int, draw: np.random.Generator | None
) -> Tensor:
    """Whether each test row's answer is right, by the votes of its nearest or of drawn rows: [N]."""
    backbone, labels = store.backbone, data.task.labels
    wanted = [labels.index(str(row.label)) if row.label in labels else -1 for row in data.splits.test]
    encodings = backbone.encode(data.splits.test, backbone.max_tokens)
    vectors_PD = unit(store(backbone.encode(rows, backbone.max_tokens)))
    labels_P = torch.tensor([labels.index(str(row.label)) for row in rows])

    def answers(members: list[int], asked: list[int]) -> Tensor:
        pool = DemonstrationPool(
            texts=tuple(rows[k].text for k in members),
            labels_N=labels_P[members],
            vectors_ND=vectors_PD[members],
            num_neighbours=shots,
            temperature=TEMPERATURE,
        )
        adapter = Adapter(base=backbone.identity, labels=labels, max_tokens=backbone.max_tokens, demonstrations=pool)
        return predict(adapter, [encodings[k] for k in asked], store).argmax(-1)

    every = list(range(len(rows)))
    if draw is None:
        found = answers(every, list(range(len(wanted))))
    else:
        drawn = [draw.choice(len(rows), min(shots, len(rows)), replace=False).tolist() for _ in wanted]
        found = torch.cat([answers(members, [k]) for k, members in enumerate(drawn)])
    return (found == torch.tensor(wanted)).double()


def measure(store: FeatureStore, path: str, shots: int, draws: int) -> Line:
    """Both on one data set."""
    data = load_dataset(load_config(None, {"data": path}))
    rows = data.splits.train
    nearest_N = is_right(store, data, rows, shots, None)
    each = [is_right(store, data, rows, shots, np.random.default_rng(seed)) for seed in range(draws)]
    random_N = torch.stack(each).mean(0)
    gain_N = (nearest_N - random_N).numpy()
    rng = np.random.default_rng(0)
    means_R = np.array([gain_N[rng.integers(len(gain_N), size=len(gain_N))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means_R, (0.025, 0.975)).tolist()
    return Line(
        data=data.task.name,
        pool=len(rows),
        test=len(gain_N),
        shots=shots,
        nearest=float(nearest_N.mean()),
        random=float(random_N.mean()),
        difference=float(gain_N.mean()),
        low=low,
        high=high,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", help="files or folders, as for compare")
    parser.add_argument("--model", default=EMBEDDED_MODEL)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--draws", type=int, default=5, help="of random rows, averaged")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="examples/support, one draw: shows that it runs")
    options = parser.parse_args()
    if options.quick:
        options.data, options.draws = [str(EXAMPLE)], 1
    elif not options.data:
        parser.error("give DATA, or --quick")
    base = open_backbone(load_checkpoint(options.model), dtype=torch.float32, device=torch.device("cpu"))
    store = FeatureStore(base)
    print("| data | pool | test rows | nearest | random | points [95 %] |\n|---|---|---|---|---|---|", flush=True)
    lines = []
    for path in options.data:
        lines.append(measure(store, path, options.shots, options.draws))
        print(lines[-1].said(), flush=True)
    if options.json is not None:
        write_json(options.json, [asdict(line) for line in lines])


if __name__ == "__main__":
    main()
