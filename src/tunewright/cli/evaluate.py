"""`tunewright evaluate`: a metric with its interval on new labelled rows."""

from pathlib import Path
from typing import Annotated

import typer

from tunewright.errors import counted


def evaluate(
    adapter: Annotated[Path, typer.Argument(help="adapter folder, such as runs/NAME/adapters/lora/seed-0")],
    rows: Annotated[
        str, typer.Argument(help="csv, tsv, jsonl or parquet file with the right answers", metavar="LABELLED_FILE")
    ],
    metric: Annotated[str | None, typer.Option(help="metric of its kind of task; its own when absent")] = None,
    database: Annotated[
        str | None, typer.Option(help="SQLite file that metric sql-execution asks", metavar="FILE")
    ] = None,
    text: Annotated[str | None, typer.Option(help="column of the texts; the adapter's own when absent")] = None,
    text_pair: Annotated[str | None, typer.Option(help="column of the second texts, for an adapter of pairs")] = None,
    label: Annotated[str | None, typer.Option(help="column of the labels; the adapter's own when absent")] = None,
    target: Annotated[str | None, typer.Option(help="column of the targets; the adapter's own when absent")] = None,
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
) -> None:
    """Score a trained adapter on labelled rows."""
    from tunewright.cli.rows import check_adapter, check_labels_known, read_examples, warn_cut
    from tunewright.data.targets import by_input

    check_adapter(adapter)
    from tunewright.serve.predictor import Predictor  # torch
    from tunewright.types import is_known

    predictor = Predictor.load(adapter, model=model)
    given = {"text": text, "text_pair": text_pair, "label": label, "target": target}
    _, examples = read_examples(rows, predictor.adapter.about, given, predictor.adapter.columns)
    if predictor.labels:
        check_labels_known(examples, predictor.labels, rows)
    else:
        examples = by_input(examples, predictor.adapter.columns)
    warn_cut(predictor.cut_ids(examples), len(examples))
    found = predictor.evaluate(examples, metric=metric, database=database)
    name = predictor.adapter.about.get("metric", "accuracy") if metric is None else metric
    unknown = sum(e.label is not None and not is_known(e.label, predictor.labels) for e in examples)
    print(f"{name} {found.value:.4f} (95% interval {found.low:.4f} to {found.high:.4f}, n = {found.n})")
    if unknown:
        print(f"{counted(unknown, 'row has', 'rows have')} labels the adapter does not know; they count as wrong")
