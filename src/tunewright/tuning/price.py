"""What a candidate costs to serve: modelled from its parts and its base, and timed here."""

import statistics
import time
from collections.abc import Sequence

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.base import Row
from tunewright.evaluation import cost
from tunewright.tuning.attempt import Workshop
from tunewright.types import Example

_LATENCY_RUNS = 9


def modelled_price(adapter: Adapter, workshop: Workshop, *, num_tokens: int) -> float:
    """US dollars for 1000 requests; see `cost.price`.

    Args:
        adapter: What is served.
        workshop: Its base, and the rows that tell the length of a request.
        num_tokens: Trained on.
    """
    backbone, encodings = workshop.material.backbone, workshop.material.rows.encodings
    tokens = sum(len(e.ids) for e in encodings) / max(1, len(encodings))
    extra = 0 if adapter.soft_prompt is None else adapter.soft_prompt.length
    mixing = [part for part in (adapter.lora, adapter.prefix, adapter.head) if part is not None]
    own = sum(t.numel() for part in mixing for t in part.tensors().values())
    runs = backbone.num_computing if adapter.needs_features else 0
    serving = cost.serving_flops(backbone_parameters=runs, adapter_parameters=own, tokens=tokens, extra_tokens=extra)
    if adapter.demonstrations is not None:
        pool_rows, dimensions = adapter.demonstrations.vectors_ND.shape
        serving += cost.search_flops(pool_rows=pool_rows, dimensions=dimensions)
    training = cost.training_flops(
        parameters=runs + own,
        tokens=num_tokens,
        flops_per_parameter=_training_factor(adapter),
    )
    base_bytes = 0 if adapter.mixes else backbone.num_parameters * backbone.dtype.itemsize
    held = adapter.num_bytes() + base_bytes
    return cost.price(serving_flops=serving, training_flops=training, held_bytes=held, prices=cost.Prices())


def _training_factor(adapter: Adapter) -> int:
    if adapter.weights is not None:
        return cost.FULL_TRAINING
    return cost.FROZEN_TRAINING if adapter.has_body else cost.FORWARD


def latency_ms(adapter: Adapter, examples: Sequence[Example], workshop: Workshop) -> float:
    """Median wall-clock milliseconds of one request, from text to logits, one at a time."""
    backbone = workshop.material.backbone
    times = []
    for k in range(_LATENCY_RUNS + 1):
        start = time.perf_counter()
        encodings = backbone.encode([examples[k % len(examples)]], adapter.max_tokens - adapter.prefix_tokens)
        backbone.logits([Row(encoding=encodings[0], adapter=adapter)])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])
