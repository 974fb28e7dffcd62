"""`tunewright predict`: the user's rows with label and probabilities."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    adapter: Annotated[Path, typer.Argument(help="adapter folder, such as runs/NAME/adapters/lora/seed-0")],
    rows: Annotated[str, typer.Argument(help="csv, tsv, jsonl or parquet file", metavar="INPUT")],
    out: Annotated[str | None, typer.Option(help="csv, tsv or jsonl file to write; printed when absent")] = None,
    text: Annotated[str | None, typer.Option(help="column of the texts; the adapter's own when absent")] = None,
    text_pair: Annotated[str | None, typer.Option(help="column of the second texts, for an adapter of pairs")] = None,
    model: Annotated[str | None, typer.Option(help="the base, where it is not under its name in training")] = None,
) -> None:
    """Answer the rows of a file with a trained adapter."""
    from tunewright.cli.rows import check_adapter, check_output, choice_columns, read_examples, warn_cut, write_answers

    check_output(out)
    check_adapter(adapter)
    from tunewright.serve.predictor import Predictor  # torch

    predictor = Predictor.load(adapter, model=model)
    own = predictor.adapter
    table, examples = read_examples(rows, own.about, {"text": text, "text_pair": text_pair}, own.columns)
    warn_cut(predictor.cut_ids(examples), len(examples))
    ending = Path(rows if out is None else out).suffix.lower()
    choices = choice_columns(predictor.adapter.about)
    text = write_answers(table, predictor.predict(examples), predictor.labels, out, ending, choices=choices)
    if text is not None:
        print(text, end="")
