"""What a candidate costs to find, train and serve: modelled from its parts and its base, and timed here."""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.base import Base, Row
from tunewright.backbones.inference import write
from tunewright.evaluation import cost
from tunewright.evaluation.cost import Prices
from tunewright.runs.comparison import Latency
from tunewright.tuning.attempt import Workshop
from tunewright.types import Example

_TIMED_S = 0.25
"""For each batch size; the fewest calls may take longer."""
_SETTLED = 0.05
"""Relative standard error of the mean of a call, from which on no more calls are needed."""
_CALLS = {1: (10, 100), 32: (2, 100)}
"""Rows of a call -> fewest and most calls: a 95th percentile of requests wants more of them than a mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Modelled:
    """Operations and bytes of a candidate, from its parts: the same on every machine."""

    serving_flops: float
    """Of one request."""
    tuning_flops: float
    """Of all trials and refits but the shipped one."""
    training_flops: float
    """Of the shipped one."""
    held_bytes: float
    """What it adds to the shared base in a server's memory."""

    def price(self, prices: Prices) -> float:
        """US dollars for 1000 requests; see `cost.price`."""
        return cost.price(
            serving_flops=self.serving_flops,
            training_flops=self.training_flops,
            held_bytes=self.held_bytes,
            prices=prices,
        )

    def ownership(self, prices: Prices) -> float:
        """US dollars for everything; see `cost.ownership`."""
        return cost.ownership(
            serving_flops=self.serving_flops,
            tuning_flops=self.tuning_flops,
            training_flops=self.training_flops,
            held_bytes=self.held_bytes,
            prices=prices,
        )


def model(adapter: Adapter, workshop: Workshop, *, num_tokens: int, num_tuning_tokens: int = 0) -> Modelled:
    """What a candidate takes.

    What a decoder puts before every text runs once and is kept: a request is billed for looking at its keys and values,
    as at those of a deep prefix, and a server for holding them.

    Where the base's features do not change they are computed once, for all trials, refits and epochs together: they are
    billed once, to the shipped fit. What is trained on them is billed by the row, of which it sees one vector.

    Args:
        adapter: What is served.
        workshop: Its base, and the rows that tell the length of a request.
        num_tokens: The shipped fit trained on, virtual ones included.
        num_tuning_tokens: All other trials and refits trained on.
    """
    backbone, (num_read, num_written) = workshop.material.backbone, _tokens(adapter, workshop)
    total, rows = num_read + num_written, max(1, len(workshop.material.examples))
    tokens, read, written = total / rows, num_read / rows, num_written / rows
    runs, own = _by_token(adapter, adapter, backbone, read=read, written=written)
    serving = sum(_reading_flops(each, adapter, backbone, read=read, written=written) for each in adapter.each)
    if adapter.retriever is not None:
        serving += _retrieval_flops(adapter.retriever, backbone, tokens)
    if adapter.demonstrations is not None:
        pool_rows, dimensions = adapter.demonstrations.vectors_ND.shape
        serving += cost.search_flops(pool_rows=pool_rows, dimensions=dimensions)
    if adapter.reasoning is not None and adapter.decoding is not None:
        serving += _reasoning_flops(adapter.decoding, backbone, tokens)
    elif adapter.decoding is not None or adapter.scores_choices:
        # Every token that is written is chosen from the whole vocabulary.
        serving += cost.FORWARD * written * backbone.num_vocabulary_values * len(adapter.each)
    if adapter.nearest_target is not None:
        serving += cost.search_flops(pool_rows=len(adapter.nearest_target.texts), dimensions=round(tokens))
    if adapter.has_body:
        factor, once, by_token = _training_factor(adapter), 0.0, 1.0
    else:
        factor, by_token = cost.FULL_TRAINING, 1 / max(1.0, tokens)
        once = cost.training_flops(parameters=runs, tokens=total, flops_per_parameter=cost.FORWARD)
    trained = runs + own if adapter.has_body else own

    def spent(seen: float) -> float:
        return cost.training_flops(parameters=trained, tokens=seen * by_token, flops_per_parameter=factor)

    seen_values = sum(_kept_tokens(each, backbone) for each in adapter.each) * backbone.kept_values
    kept_bytes = seen_values * workshop.material.weights.dtype.itemsize if seen_values else 0
    base_bytes = 0 if adapter.mixes else workshop.material.weights.num_bytes
    return Modelled(
        serving_flops=serving,
        tuning_flops=spent(num_tuning_tokens),
        training_flops=once + spent(num_tokens),
        held_bytes=adapter.num_bytes() + kept_bytes + base_bytes,
    )


def _tokens(adapter: Adapter, workshop: Workshop) -> tuple[int, int]:
    """Tokens of all training rows that are read, and of their targets or of the candidates that are scored."""
    material = workshop.material
    if not adapter.scores_choices:
        return sum(len(e.ids) for e in material.rows.encodings), sum(map(len, material.rows.answers))
    bare = [replace(example, choices=()) for example in material.examples]
    choices = [choice for example in material.examples for choice in example.choices]
    read = material.backbone.encode(bare, material.max_tokens)
    return sum(len(e.ids) for e in read), sum(len(material.backbone.encode_answer(choice)) for choice in choices)


_BESIDE = ("lora", "tuner", "prefix", "head")
"""Parts whose values take part in the work of each token."""
_PEFT_NAME = "tuner.base_model.model."


def _by_token(member: Adapter, whole: Adapter, backbone: Base, *, read: float, written: float) -> tuple[float, float]:
    """Parameters of the base and of the adapter that each token of a pass runs through, on average."""
    asks = whole.needs_features or whole.decoding is not None
    read += extra_tokens(member, backbone) - _kept_tokens(member, backbone)
    written += _phrase_work(member, backbone)[0]
    tokens = max(1.0, read + written)
    own = sum(
        tensor.numel() * backbone.tokens_through(name.removeprefix("lora.").removeprefix(_PEFT_NAME), read, written)
        for name, tensor in whole.tensors().items()
        if name.split(".")[0] in _BESIDE
    )
    return backbone.computing(read, written) / tokens if asks else 0.0, own / tokens


def _reading_flops(member: Adapter, whole: Adapter, backbone: Base, *, read: float, written: float) -> float:
    """Of a text with what stands around it, and of the phrases that are scored behind it."""
    kept, (after, products) = _kept_tokens(member, backbone), _phrase_work(member, backbone)
    runs, own = _by_token(member, whole, backbone, read=read, written=written)
    reading = cost.serving_flops(
        backbone_parameters=runs,
        adapter_parameters=own + kept * backbone.kept_values,
        tokens=read + written,
        extra_tokens=extra_tokens(member, backbone) - kept + after,
    )
    return reading + cost.FORWARD * products * backbone.width


def _phrase_work(adapter: Adapter, backbone: Base) -> tuple[int, int]:
    return backbone.phrase_work(adapter) if adapter.verbalizer is not None and adapter.scores_phrases else (0, 0)


def _kept_tokens(adapter: Adapter, backbone: Base) -> int:
    """Of what stands before each text, what runs once: soft prompt, instruction and demonstrations of a decoder."""
    if backbone.kept_values == 0:
        return 0
    fixed = () if adapter.template is None else backbone.token_ids(adapter.template.fixed)
    return len(fixed) + (0 if adapter.soft_prompt is None else adapter.soft_prompt.length)


def extra_tokens(adapter: Adapter, backbone: Base) -> int:
    """What it puts beside the text of each request: soft prompt, instruction, demonstrations, words around a row.

    Of several members what all of them put there.
    """
    if adapter.members is not None:
        return sum(extra_tokens(each, backbone) for each in adapter.each)
    prompt = 0 if adapter.soft_prompt is None else adapter.soft_prompt.length
    if adapter.pairs_choices and backbone.kept_values == 0:
        prompt *= len(adapter.labels)
    said = () if adapter.template is None else (adapter.template.fixed, adapter.template.fill({}))
    return prompt + sum(len(backbone.token_ids(words)) for words in said if words)


def _reasoning_flops(decoding: Decoding, backbone: Base, tokens: float) -> float:
    """Of reasonings that are as long as they may be, and of the text, which runs again for each further sample."""
    written = decoding.samples * decoding.max_new_tokens
    passed = written + (decoding.samples - 1) * tokens
    return cost.FORWARD * (passed * backbone.num_computing + written * backbone.num_vocabulary_values)


def _retrieval_flops(retriever: Retriever, backbone: Base, tokens: float) -> float:
    """Of the pass that finds what is near, where features are compared, of the search, and of what is then shown."""
    some = retriever.shown[:_POOL_ROWS]
    shown = retriever.num_shown * sum(len(backbone.token_ids(text)) for text in some) / len(some)
    passed = min(shown, backbone.max_tokens / 2) + (tokens if retriever.by_features else 0.0)
    dimensions = backbone.width if retriever.by_features else round(tokens)
    search = cost.search_flops(pool_rows=len(retriever.texts), dimensions=dimensions)
    return cost.FORWARD * backbone.computing(passed, 0.0) + search


_POOL_ROWS = 200
"""Demonstrations that tell how long one is."""


def _training_factor(adapter: Adapter) -> int:
    return cost.FULL_TRAINING if adapter.weights is not None else cost.FROZEN_TRAINING


def latency(
    adapter: Adapter, examples: Sequence[Example], workshop: Workshop, *, allowed_s: float = float("inf")
) -> tuple[Latency, ...]:
    """Wall-clock milliseconds of a call, from texts to logits or texts, for each size of a batch.

    Args:
        adapter: What is served.
        examples: Texts to take in turn.
        workshop: Its base.
        allowed_s: For all sizes together; a size for which no time is left is missing.
    """
    stop = time.perf_counter() + allowed_s
    return tuple(
        found
        for batch in _CALLS
        if time.perf_counter() < stop and (found := _timed(adapter, examples, workshop, batch, stop)) is not None
    )


def _timed(
    adapter: Adapter, examples: Sequence[Example], workshop: Workshop, batch: int, stop: float
) -> Latency | None:
    store, rows = workshop.material.store, itertools.cycle(examples)
    fewest, most = _CALLS[batch]
    warmups = 1 if batch == 1 else 0
    backbone, times_ms = store.backbone, list[float]()
    begun = time.perf_counter()
    while len(times_ms) < warmups + most:
        texts = list(itertools.islice(rows, batch))
        start = time.perf_counter()
        if adapter.writes_text:
            write(adapter, texts, store)
        else:
            encodings = backbone.encode_for(texts, adapter)
            backbone.logits([Row(encoding=encoding, adapter=adapter) for encoding in encodings])
        end = time.perf_counter()
        times_ms.append(1000 * (end - start))
        timed = times_ms[warmups:]
        is_enough = len(timed) >= fewest and (end - begun > _TIMED_S or _is_settled(timed))
        if end > stop or is_enough:
            break
    timed = times_ms[warmups:]
    if not timed:
        return None
    p50, p95 = np.quantile(timed, (0.5, 0.95)).tolist()
    return Latency(batch=batch, p50_ms=round(p50, 3), p95_ms=round(p95, 3))


def _is_settled(times_ms: Sequence[float]) -> bool:
    """Whether more calls would tell little more."""
    return float(np.std(times_ms, ddof=1)) <= _SETTLED * float(np.mean(times_ms)) * math.sqrt(len(times_ms))
