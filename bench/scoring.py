"""Many labels scored for many rows behind fixed demonstrations: ours, plain transformers with a cache, and lm-eval.

GPT-2's shape with random weights, the texts and labels of a csv file such as banking77's, a tokenizer of byte pairs
learned from them. Each label's score is the mean log-probability of its tokens. The three sides:

- ours: the demonstrations run once and are kept, each row once, the labels as one tree of tokens behind it;
- transformers: the demonstrations' keys and values in a cache made once, and all labels of a row as one padded batch
  behind it (no tree, the row repeated for each label);
- lm-evaluation-harness (`HFLM.loglikelihood`; left out where it is not installed): a request for each row and label.

    python -m bench.scoring path/to/banking77/test.csv [--rows 200 --demonstrations 16 --lm-eval-rows 2]
    python -m bench.scoring --quick

Seconds are per row: the harness takes so long that it gets fewer rows. The same predictions are checked on the rows
that two sides have in common.
"""

import argparse
import copy
import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template
from tunewright.backbones.base import Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.data.labels import in_words
from tunewright.files import append_line
from tunewright.types import Example

FRAME = "\nMessage: {text}\nTopic:"
"""Begins with its line break: tokenised apart from the demonstrations it has the tokens that it has after them."""
QUICK_WORDS = ("card", "rate", "top up", "transfer fee", "card lost", "transfer failed")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One side."""

    side: str
    rows: int
    seconds_per_row: float
    times_ours: float
    same_predictions: float
    largest_difference: float
    """Of a score from ours."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What all sides are asked."""

    fixed: str
    texts: Sequence[str]
    labels: Sequence[str]


def read(path: Path | None, rows: int, demonstrations: int) -> Question:
    """Demonstrations first, then the rows."""
    if path is None:
        found = [{"text": f"{word} {k} please", "label": word} for k in range(50) for word in QUICK_WORDS]
    else:
        with path.open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    shown, asked = order[:demonstrations], order[demonstrations : demonstrations + rows]
    labels = sorted({in_words(row["label"]) for row in found})
    answered = [FRAME.replace("{text}", found[k]["text"]) + " " + in_words(found[k]["label"]) + "\n" for k in shown]
    return Question(fixed="".join(answered), texts=[found[k]["text"] for k in asked], labels=labels)


def save_model(folder: Path, question: Question, *, quick: bool) -> None:
    """Random weights and a tokenizer of the question's words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet, end = pre_tokenizers.ByteLevel.alphabet(), "<|endoftext|>"
    trainer = trainers.BpeTrainer(vocab_size=8000, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([question.fixed, *question.texts, *question.labels], trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 8000} if quick else {}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, eos_token_id=0, bos_token_id=0)).save_pretrained(
        folder
    )


def by_us(base: Decoder, question: Question, batch: int = 32) -> Tensor:
    """Scores [rows, labels]."""
    template = Template(fixed=question.fixed, row=FRAME)
    adapter = Adapter(base=base.identity, labels=(), max_tokens=base.max_tokens, template=template)
    candidates = [base.encode_answer(label) for label in question.labels]
    room = max(map(len, candidates))
    examples = [Example(id=str(k), text=text) for k, text in enumerate(question.texts)]
    rows = [Row(encoding=e, adapter=adapter) for e in base.encode_for(examples, adapter, room)]
    with torch.no_grad():
        return torch.cat([base.scores(rows[k : k + batch], candidates) for k in range(0, len(rows), batch)])


def by_transformers(model: Any, tokenizer: Any, question: Question) -> Tensor:
    """Scores [rows, labels], from a cache of the demonstrations that each row's batch gets a copy of."""
    labels = [tokenizer(f" {label}")["input_ids"] for label in question.labels]
    size, width = len(labels), max(map(len, labels))
    fixed = torch.tensor([tokenizer(question.fixed)["input_ids"]])
    found = []
    with torch.no_grad():
        made = model(fixed, past_key_values=transformers.DynamicCache(config=model.config)).past_key_values
        made.batch_repeat_interleave(size)
        for text in question.texts:
            ids = tokenizer(FRAME.replace("{text}", text))["input_ids"]
            rows = torch.tensor([[*ids, *label, *[0] * (width - len(label))] for label in labels])
            logits = model(rows, past_key_values=copy.deepcopy(made), logits_to_keep=width + 1).logits
            log_probs = logits[:, :-1].float().log_softmax(-1)
            found.append(torch.stack([log_probs[k, range(len(c)), c].mean() for k, c in enumerate(labels)]))
    return torch.stack(found)


def by_harness(folder: Path, question: Question) -> Tensor | None:
    """Scores [rows, labels] by lm-evaluation-harness, or None where it is not installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    model: Any = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=16)
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(question.fixed + FRAME.replace("{text}", text), f" {label}"),
            idx=0,
        )
        for text in question.texts
        for label in question.labels
    ]
    sums = torch.tensor([total for total, _ in model.loglikelihood(requests, disable_tqdm=True)])
    sizes = torch.tensor([len(model.tok_encode(f" {label}")) for label in question.labels])
    return sums.view(len(question.texts), -1) / sizes


def timed(run: Callable[[], Tensor | None]) -> tuple[Tensor | None, float]:
    """What it gives, and its seconds."""
    start = time.perf_counter()
    found = run()
    return found, time.perf_counter() - start


def compared(side: str, found: Tensor, seconds: float, ours: Tensor, ours_s: float) -> Result:
    """One side beside ours."""
    mine = ours[: len(found)]
    return Result(
        side=side,
        rows=len(found),
        seconds_per_row=seconds / len(found),
        times_ours=seconds / len(found) / ours_s,
        same_predictions=float((found.argmax(1) == mine.argmax(1)).float().mean()),
        largest_difference=float((found - mine).abs().max()),
    )


def measure(question: Question, peer_rows: int, harness_rows: int, *, quick: bool) -> list[Result]:
    """All sides on the same machine, one after the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, question, quick=quick)
        base = Decoder(load_checkpoint(name), dtype=torch.float32, device=torch.device("cpu"))
        model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        ours, seconds = timed(lambda: by_us(base, question))
        assert ours is not None
        each_s = seconds / len(ours)
        results = [compared("ours", ours, seconds, ours, each_s)]
        few = Question(fixed=question.fixed, texts=question.texts[:peer_rows], labels=question.labels)
        found, seconds = timed(lambda: by_transformers(model, tokenizer, few))
        assert found is not None
        results.append(compared("transformers, demonstrations cached", found, seconds, ours, each_s))
        fewer = Question(fixed=question.fixed, texts=question.texts[:harness_rows], labels=question.labels)
        found, seconds = timed(lambda: by_harness(folder, fewer))
        if found is not None:
            results.append(compared("lm-evaluation-harness", found, seconds, ours, each_s))
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="csv with columns text and label")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--demonstrations", type=int, default=16)
    parser.add_argument("--transformers-rows", type=int, default=20)
    parser.add_argument("--lm-eval-rows", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file of results, one a line")
    parser.add_argument("--quick", action="store_true", help="a tiny model and six labels: shows that it runs")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    rows = 6 if options.quick else options.rows
    question = read(None if options.quick else options.data, rows, options.demonstrations)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {len(question.labels)} labels\n")
    print("| side | rows | s per row | times ours | same predictions | largest difference |\n|---|---|---|---|---|---|")
    for r in measure(question, options.transformers_rows, options.lm_eval_rows, quick=options.quick):
        line = f"| {r.side} | {r.rows} | {r.seconds_per_row:.3f} | {r.times_ours:.1f}x "
        print(f"{line}| {r.same_predictions:.0%} | {r.largest_difference:.0e} |", flush=True)
        if options.json is not None:
            append_line(options.json, asdict(r))


if __name__ == "__main__":
    main()
