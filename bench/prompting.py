"""Eight prompting methods over the same rows: time, tokens, and what it saves that fixed parts run once.

GPT-2's shape with random weights, the example messages as rows. Each method is placed at its defaults and answers all
rows twice: as it is, and with everything fixed moved into each row, as a prompt that is sent anew with each request.
Both sides run in this process, in turn; the largest difference of a probability is printed: rounding, but for methods
that retrieve, where what is found then stands before the fixed part and not behind it. Tokens of a chain of thought are
those that are read, not those it writes, which nothing shares.

    python -m bench.prompting [--rows 300 --json F]
    python -m bench.prompting --quick
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from bench import EXAMPLE
from bench.serving_tasks import gpt2
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.members import Members
from tunewright.adapters.parts import Template
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.config import load_config
from tunewright.data.load import load_dataset
from tunewright.evaluation.metrics import METRICS
from tunewright.files import write_json
from tunewright.methods.base import Material
from tunewright.methods.table import METHODS
from tunewright.prompts.template import Prompt
from tunewright.runtime import generator
from tunewright.tuning.attempt import prepare
from tunewright.types import Example, Params

PLACED: tuple[tuple[str, str, Params], ...] = (
    ("template", "template", {}),
    ("zero-shot", "zero-shot", {}),
    ("few-shot, fixed", "few-shot", {"choice": "stratified"}),
    ("few-shot, bm25", "few-shot", {"choice": "bm25"}),
    ("prompt-search", "prompt-search", {"pool": 4}),
    ("chain-of-thought", "chain-of-thought", {}),
    ("prompt-ensemble", "prompt-ensemble", {"pool": 4, "members": 3}),
    ("retrieve", "retrieve", {}),
)
"""Line of the table, method, and where it leaves its defaults."""

PROMPT = Prompt(
    fixed="You sort the messages of customers. Answer with one topic, in one or two words, and nothing else.\n\n",
    row="Message: {text}\nTopic:",
)
WRITTEN = 8
"""Tokens of a reasoning: a random model has no more to say."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method."""

    method: str
    tokens: int
    tokens_apart: int
    seconds: float
    seconds_apart: float
    difference: float

    def said(self) -> str:
        """As a row of the table."""
        tokens, time_s = self.tokens_apart / self.tokens, self.seconds_apart / self.seconds
        return (
            f"| {self.method} | {self.tokens} | {self.tokens_apart} | {tokens:.1f} | {self.seconds:.1f} | "
            f"{self.seconds_apart:.1f} | {time_s:.1f} | {self.difference:.1e} |"
        )


def apart(adapter: Adapter) -> Adapter:
    """The same adapter with all that is fixed in each row."""
    if adapter.members is not None:
        moved = tuple(replace(each, template=_moved(each.template)) for each in adapter.members.members)
        return replace(adapter, members=Members(members=moved))
    assert adapter.template is not None
    return replace(adapter, template=_moved(adapter.template))


def _moved(template: Template) -> Template:
    return Template(fixed="", row=template.fixed.replace("{text}", "(text)") + template.row)


def measured(adapter: Adapter, base: Decoder, rows: Sequence[Example]) -> tuple[int, float, torch.Tensor]:
    """Tokens that are read, seconds, and probabilities."""
    start = time.perf_counter()
    encodings = base.encode_for(rows, adapter)
    shares_NC = predict(adapter, encodings, FeatureStore(base)).softmax(-1)
    seconds = time.perf_counter() - start
    fixed = {each.template.fixed for each in adapter.each if each.template is not None}
    tokens = sum(len(e.ids) for e in encodings) + sum(len(base.fixed_ids(text)) for text in fixed)
    return tokens, seconds, shares_NC


def compare(name: str, adapter: Adapter, base: Decoder, rows: Sequence[Example]) -> Line:
    """Both sides of a method."""
    if adapter.decoding is not None:
        adapter = replace(adapter, decoding=replace(adapter.decoding, max_new_tokens=WRITTEN))
    tokens, seconds, shares_NC = measured(adapter, base, rows)
    tokens_apart, seconds_apart, apart_NC = measured(apart(adapter), base, rows)
    return Line(
        method=name,
        tokens=tokens,
        tokens_apart=tokens_apart,
        seconds=seconds,
        seconds_apart=seconds_apart,
        difference=float((shares_NC - apart_NC).abs().max()),
    )


def material(folder: str, num_rows: int) -> tuple[Material, list[Example]]:
    """The example messages on a base, and so many rows to answer."""
    data = load_dataset(load_config(None, {"data": str(EXAMPLE)}))
    base = Decoder(load_checkpoint(folder), dtype=torch.float32, device=torch.device("cpu"))
    splits = data.splits
    shop = prepare(data.task, base, splits.train, splits.dev, METRICS["accuracy"], base.max_tokens, prompt=PROMPT)
    passages = tuple(f"{label.replace('_', ' ')}: {data.task.descriptions[label]}" for label in data.task.labels)
    every = [*splits.test, *splits.dev, *splits.train]
    return replace(shop.material, documents=passages), every[:num_rows]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--quick", action="store_true", help="two narrow layers and 8 rows: shows that it runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = gpt2(Path(folder), narrow=options.quick)
        made, rows = material(name, 8 if options.quick else options.rows)
        base = made.backbone
        assert isinstance(base, Decoder)
        print("| method | tokens | apart | ratio | seconds | apart | ratio | difference |\n" + "|---" * 8 + "|")
        lines = []
        for name, method, own in PLACED:
            defaults = {key: each.default for key, each in METHODS[method].space(made).items()}
            adapter = METHODS[method].place(made, {**defaults, **own}, generator("prompting"))
            lines.append(compare(name, adapter, base, rows))
            print(lines[-1].said(), flush=True)
    whole = Line(
        method="all",
        tokens=sum(line.tokens for line in lines),
        tokens_apart=sum(line.tokens_apart for line in lines),
        seconds=sum(line.seconds for line in lines),
        seconds_apart=sum(line.seconds_apart for line in lines),
        difference=max(line.difference for line in lines),
    )
    print(whole.said())
    if options.json is not None:
        write_json(options.json, [asdict(line) for line in (*lines, whole)])


if __name__ == "__main__":
    main()
