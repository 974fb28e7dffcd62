"""A few training rows of every class: the draw behind the figures with ten rows a class.

    python -m bench.draw_rows path/to/banking77 OUT [--per-class 10 --dev-rows 1000 --seed 0]

Reads `train.csv` and `test.csv` (columns text and label) and writes OUT/train.csv, OUT/dev.csv and OUT/test.csv: of
each class, in the order of their names, so many training rows at random; of the other training rows, so many for dev;
the test rows unchanged.
"""

import argparse
import csv
import random
from pathlib import Path

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows of a file with columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    """The rows with their columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[Row], per_class: int, dev_rows: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Training rows of each class, and dev rows of the rest."""
    rng = random.Random(seed)
    train: list[int] = []
    for label in sorted({row["label"] for row in rows}):
        train += rng.sample([k for k, row in enumerate(rows) if row["label"] == label], per_class)
    others = sorted(set(range(len(rows))) - set(train))
    dev = rng.sample(others, dev_rows)
    return [rows[k] for k in train], [rows[k] for k in dev]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--dev-rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, dev = draw(read(options.source / "train.csv"), options.per_class, options.dev_rows, options.seed)
    options.out.mkdir(parents=True)
    for name, rows in (("train", train), ("dev", dev), ("test", read(options.source / "test.csv"))):
        write(options.out / f"{name}.csv", rows)
        print(f"{options.out / name}.csv: {len(rows)} rows")


if __name__ == "__main__":
    main()
