"""Contextual calibration and PMI on a decoder: how far its answers lean to one label, before and after.

The direction published by Zhao et al. 2021 (section 5): after some demonstrations a model prefers one label whatever
the text; dividing by what it says of texts without content takes some of that away. Each seed draws other
demonstrations, in another order; the test rows are the same. Bias is how far the largest share of answers is from that
label's share of the rows, in points.

    python -m bench.calibration MODEL path/to/sst2 [--rows 400 --seeds 5 --shots 4 --json F]
    python -m bench.calibration --quick

`sst2` is a folder with `train.csv` and `test.csv` of columns text and label; `--words` call the labels.
"""

import argparse
import csv
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench import EXAMPLE
from bench.serving_tasks import gpt2
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.backbones.kinds import open_backbone
from tunewright.evaluation.metrics import METRICS, label_indices
from tunewright.files import append_line
from tunewright.methods.base import Material
from tunewright.methods.prompting import asking, calibrated, prompts, shown
from tunewright.runtime import device, generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Example, Task

HOWS = ("none", "contextual", "pmi", "uniform")
"""Of which the last sees the training texts."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One prompt under one calibration."""

    seed: int
    calibration: str
    bias: float
    """In points."""
    shares: tuple[float, ...]
    """Of each label among the answers."""
    accuracy: float
    rows: int


def read(path: Path, rows: int, words: dict[str, str]) -> list[Example]:
    """The first rows of a file with such labels, which are called by the words that answer."""
    with path.open(encoding="utf-8", newline="") as file:
        some = [row for row in csv.DictReader(file) if row["label"] in words][:rows]
    return [Example(id=str(k), text=row["text"], label=words[row["label"]]) for k, row in enumerate(some)]


def measure(material: Material, template: str, shots: int, seed: int, test: list[Example]) -> list[Result]:
    """All calibrations of one drawn prompt."""
    prompt, _ = shown(material, prompts(material)[template], shots, generator("calibration", seed))
    adapter = material.adapter(**asking(material, prompt))
    encodings = material.backbone.encode_for(test, adapter)
    right_N = label_indices(material.task.labels, (row.label for row in test))
    logits_NC = predict(adapter, encodings, material.store)
    truth_C = np.bincount(right_N, minlength=material.num_labels) / len(right_N)
    found = []
    for how in HOWS:
        bias = calibrated(adapter, material, {"calibration": how}).calibration
        shifted_NC = logits_NC if bias is None or bias.bias_C is None else logits_NC + bias.bias_C
        answers_N = shifted_NC.argmax(-1).numpy()
        shares_C = np.bincount(answers_N, minlength=material.num_labels) / len(answers_N)
        most = int(shares_C.argmax())
        found.append(
            Result(
                seed=seed,
                calibration=how,
                bias=round(100 * float(shares_C[most] - truth_C[most]), 1),
                shares=tuple(round(float(share), 3) for share in shares_C),
                accuracy=round(float((answers_N == right_N).mean()), 3),
                rows=len(test),
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--template", default="opinion")
    parser.add_argument("--words", nargs="*", default=["negative=terrible", "positive=great"], metavar="LABEL=WORD")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two narrow layers and 8 messages: shows that it runs")
    args = parser.parse_args()
    if args.quick:
        args.model, args.data, args.rows, args.seeds = gpt2(Path(tempfile.mkdtemp()), narrow=True), EXAMPLE, 8, 1
        args.words = ["refund_request=refund", "delivery_status=parcel"]
    elif args.data is None:
        parser.error("give MODEL and DATA, or --quick")
    files = (EXAMPLE, EXAMPLE) if args.quick else (args.data / "train.csv", args.data / "test.csv")
    base = open_backbone(load_checkpoint(args.model), dtype=torch.float32, device=device())
    words = dict(pair.split("=", 1) for pair in args.words)
    train, test = (read(file, n, words) for file, n in zip(files, (2000, args.rows), strict=True))
    labels = tuple(words.values())
    task = Task(name=args.data.name, labels=labels, descriptions={label: label for label in labels})
    material = prepare(task, base, train, train[:1], METRICS["accuracy"], base.max_tokens).material
    material = replace(material, store=FeatureStore(base))
    found = [r for seed in range(args.seeds) for r in measure(material, args.template, args.shots, seed, test)]
    print(
        f"{args.model} on {args.data.name}, {len(test)} rows, {args.shots} shots, template {args.template!r}, {words}"
    )
    print(f"{'seed':>4}  {'calibration':<12} {'bias':>6} {'accuracy':>8}  shares of {', '.join(labels)}")
    for each in found:
        print(f"{each.seed:>4}  {each.calibration:<12} {each.bias:>6.1f} {each.accuracy:>8.3f}  {each.shares}")
    for how in HOWS:
        mine = [each for each in found if each.calibration == how]
        biases, rights = [e.bias for e in mine], [e.accuracy for e in mine]
        spread = float(np.std(biases, ddof=1)) if len(mine) > 1 else 0.0
        print(f"mean  {how:<12} {np.mean(biases):>6.1f} (sd {spread:.1f})  accuracy {np.mean(rights):.3f}")
    for each in found if args.json else []:
        append_line(args.json, asdict(each))


if __name__ == "__main__":
    main()
