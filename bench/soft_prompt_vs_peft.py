"""One training step of a soft prompt, by PEFT and by Tunewright: seconds, memory, and that both compute the same.

The same random weights, the same rows, the same loss (of one label token at the end of each input), gradients of the
prompt compared beside the times. PEFT runs as its documentation has it: PeftModelForCausalLM with labels, padded on the
right, with transformers' sdpa attention. Since it computes logits at all positions, there is a second column in which
it computes them at the end of each row alone, as ours does. Steps of the sides alternate; each
side counts by its fastest step, which is what a busy machine disturbs least; with one thread on a very busy one, count
processor time (`--clock processor`).

    python -m bench.soft_prompt_vs_peft [--models gpt2,llama,qwen3 --dtypes float32,bfloat16 --prompts 100,20]
    python -m bench.soft_prompt_vs_peft --quick

The floor is 4 x the layers' parameters x (prompt + real input tokens) operations at the rate of a square matrix product
of the same precision, measured between the steps.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor, nn

from tunewright.adapters.adapter import Adapter, BaseIdentity
from tunewright.adapters.parts import SoftPrompt
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.files import append_line
from tunewright.runtime import PeakMemory

BATCH, SHORTEST, LONGEST = 16, 32, 64
MATRIX = 4096
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one setting came to."""

    model: str
    dtype: str
    prompt_tokens: int
    speedup: float
    speedup_same_head: float
    memory_ratio: float
    floor_fraction: float
    loss_error: float
    gradient_error: float
    ours_s: float
    peft_s: float
    same_head_s: float
    gflops: float
    threads: int
    clock: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """One forward and backward."""

    seconds: float
    loss: float
    gradient_PD: Tensor
    peak_bytes: int


def config(name: str, *, quick: bool) -> Any:
    """A shape of 124 million parameters, or a tiny one."""
    layers, width, vocab = (2, 64, 500) if quick else (12, 768, 32_000)
    if name == "gpt2":
        # No dropout: what is compared must be the same function. The others have none.
        off: dict[str, Any] = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        vocab = vocab if quick else 50_257
        return transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=vocab, **off)
    kind = {"llama": transformers.LlamaConfig, "qwen3": transformers.Qwen3Config}[name]
    grouped = {"num_key_value_heads": max(1, width // 192), "head_dim": 64} if name == "qwen3" else {}
    return kind(
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_attention_heads=width // 64,
        vocab_size=vocab,
        max_position_embeddings=1024,
        **({"num_key_value_heads": width // 64} | grouped),
    )


class Peft:
    """PEFT's prompt tuning."""

    def __init__(self, model: Any, rows: Sequence[Encoding], labels_B: Tensor, vectors_PD: Tensor) -> None:
        prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(vectors_PD))
        self._model: Any = peft.get_peft_model(model, prompt).train()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._prompt = next(p for n, p in self._model.named_parameters() if "prompt" in n)
        self._prompt.data = vectors_PD.clone().float()
        self._prompt.requires_grad_()
        width = max(len(e.ids) for e in rows) + 1
        self._ids, self._mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        self._labels = torch.full((len(rows), width), -100)
        for k, (e, label) in enumerate(zip(rows, labels_B.tolist(), strict=True)):
            size = len(e.ids)
            self._ids[k, : size + 1] = torch.tensor([*e.ids, label])
            self._mask[k, : size + 1] = 1
            self._labels[k, size] = label
        self._ends = torch.tensor([len(vectors_PD) + len(e.ids) - 1 for e in rows])
        self._targets = labels_B

    def whole(self) -> tuple[Tensor, Tensor]:
        """Loss by the model's own forward."""
        return self._model(input_ids=self._ids, attention_mask=self._mask, labels=self._labels).loss, self._prompt

    def same_head(self) -> tuple[Tensor, Tensor]:
        """Loss with logits at the ends alone, the label not among the inputs: the least that PEFT's layout allows."""
        inner, prompt = self._model.get_base_model(), self._prompt
        ids, mask = self._ids[:, :-1], self._mask[:, :-1]
        embeds = inner.get_input_embeddings()(ids)
        embeds = torch.cat([prompt.to(embeds).expand(len(ids), -1, -1), embeds], 1)
        mask = torch.cat([mask.new_ones(len(ids), len(prompt)), mask], 1)
        hidden = inner.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
        logits = inner.lm_head(hidden[torch.arange(len(ids)), self._ends]).float()
        return nn.functional.cross_entropy(logits, self._targets), prompt


class Ours:
    """The executor that training, evaluation and serving use, then the language model's head at the ends."""

    def __init__(self, model: Any, rows: Sequence[Encoding], labels_B: Tensor, vectors_PD: Tensor) -> None:
        identity = BaseIdentity(name="random", kind="decoder", sha256="", tokenizer_sha256="")
        inner, self._head_VD = model.base_model, model.lm_head.weight.detach()
        tokenizer = transformers.PreTrainedTokenizerFast.__new__(transformers.PreTrainedTokenizerFast)
        checkpoint = Checkpoint(
            identity=identity, config=model.config, tokenizer=tokenizer, model=inner, pooling="lasttoken"
        )
        dtype = next(inner.parameters()).dtype
        self._base = Decoder(checkpoint, dtype=dtype, device=torch.device("cpu"))
        self._prompt = vectors_PD.clone().float().requires_grad_()
        adapter = Adapter(
            base=identity,
            labels=(),
            max_tokens=1024,
            soft_prompt=SoftPrompt(vectors_PD=self._prompt),
        )
        self._rows, self._labels_B = [Row(encoding=e, adapter=adapter) for e in rows], labels_B
        self.num_computing = self._base.num_computing

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Loss of the step."""
        features_BD = self._base.features(self._rows).to(self._head_VD.dtype)
        logits_BV = nn.functional.linear(features_BD, self._head_VD).float()
        return nn.functional.cross_entropy(logits_BV, self._labels_B), self._prompt


def step(run: Callable[[], tuple[Tensor, Tensor]], clock: Clock) -> Step:
    """Times one forward and backward."""
    peak = PeakMemory()
    peak.start()
    rest = peak.read_bytes()
    start = clock()
    loss, prompt = run()
    loss.backward()
    seconds = clock() - start
    gradient, prompt.grad = prompt.grad, None
    top = peak.read_bytes()
    assert gradient is not None
    used = 0 if rest is None or top is None else top - rest
    return Step(seconds=seconds, loss=float(loss.detach()), gradient_PD=gradient, peak_bytes=used)


def matmul_gflops(dtype: torch.dtype, size: int, clock: Clock) -> float:
    """Rate of one square matrix product."""
    matrix = torch.ones(size, size, dtype=dtype)
    start = clock()
    torch.mm(matrix, matrix)
    return 2 * size**3 / (clock() - start) / 1e9


def measure(name: str, dtype: str, length: int, repeats: int, clock: str, *, quick: bool) -> Cell:
    """Alternates the sides."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    shape = config(name, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        made = transformers.AutoModelForCausalLM.from_config(shape, dtype=kind)
        made.save_pretrained(Path(folder))
        theirs, mine = (transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=kind) for _ in range(2))
    lengths = torch.randint(SHORTEST, LONGEST + 1, (BATCH,)).tolist()
    ids = [torch.randint(shape.vocab_size, (n,)).tolist() for n in lengths]
    rows = [Encoding(ids=tuple(i), type_ids=(0,) * len(i)) for i in ids]
    labels_B, vectors_PD = torch.randint(shape.vocab_size, (BATCH,)), 0.02 * torch.randn(length, shape.hidden_size)
    peers = Peft(theirs, rows, labels_B, vectors_PD)
    ours = Ours(mine, rows, labels_B, vectors_PD)
    weight_bytes = sum(p.numel() * p.element_size() for p in made.parameters())
    del made
    runs, rates = list[tuple[Step, ...]](), list[float]()
    for _ in range(repeats + 1):
        rates.append(matmul_gflops(kind, 512 if quick else MATRIX, CLOCKS[clock]))
        runs.append(tuple(step(side, CLOCKS[clock]) for side in (ours, peers.same_head, peers.whole)))
    runs, rates = runs[1:], rates[1:]  # the first call is slower everywhere
    mine_s, same_s, whole_s = (min(run[k].seconds for run in runs) for k in range(3))
    floor = 4 * ours.num_computing * (length + sum(lengths)) / 1e9
    ours_step, _, whole = runs[-1]
    difference = (ours_step.gradient_PD - whole.gradient_PD).abs().max() / whole.gradient_PD.abs().max()
    return Cell(
        model=name,
        dtype=dtype,
        prompt_tokens=length,
        speedup=whole_s / mine_s,
        speedup_same_head=same_s / mine_s,
        memory_ratio=(weight_bytes + ours_step.peak_bytes) / (weight_bytes + whole.peak_bytes),
        floor_fraction=floor / max(rates) / mine_s,
        loss_error=abs(ours_step.loss - whole.loss) / whole.loss,
        gradient_error=float(difference),
        ours_s=mine_s,
        peft_s=whole_s,
        same_head_s=same_s,
        gflops=max(rates),
        threads=torch.get_num_threads(),
        clock=clock,
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gpt2,llama,qwen3")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--prompts", default="100,20")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file of finished cells, one a line")
    parser.add_argument("--quick", action="store_true", help="tiny models: shows that it runs")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one thread on a busy machine")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, peft {peft.__version__}\n")
    print("| model | dtype | prompt | PEFT s | at ends s | ours s | speedup | at ends | memory | floor | loss | grad |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for dtype in options.dtypes.split(","):
        for length in map(int, options.prompts.split(",")):
            for name in options.models.split(","):
                repeats = 1 if options.quick else options.repeats
                c = measure(name, dtype, length, repeats, options.clock, quick=options.quick)
                if options.json is not None:
                    append_line(options.json, asdict(c))
                print(row(c), flush=True)


def row(c: Cell) -> str:
    """A line of the table."""
    return (
        f"| {c.model} | {c.dtype} | {c.prompt_tokens} | {c.peft_s:.2f} | {c.same_head_s:.2f} | {c.ours_s:.2f} "
        f"| {c.speedup:.1f}x | {c.speedup_same_head:.1f}x | {c.memory_ratio:.2f} | {c.floor_fraction:.0%} "
        f"| {c.loss_error:.0e} | {c.gradient_error:.0e} |"
    )


if __name__ == "__main__":
    main()
