"""What a request costs that is answered elsewhere, from how the candidate's answers to the test rows were billed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.heard import Heard
from tunewright.backbones.inference import FeatureStore, answer
from tunewright.errors import EndpointError
from tunewright.evaluation.cost import Prices, TokenPrices
from tunewright.runs.comparison import Latency
from tunewright.tuning.progress import OutOfTime
from tunewright.types import Example, whole_text


@dataclass(frozen=True, kw_only=True)
class Bought:
    """Of one request of a candidate."""

    extra_tokens: float | None
    """Billed beyond the row's own text; of the text as many as its share of the prompts' bytes."""
    usd: float | None
    """What its tokens cost; the discount for input that was seen shortly before is left out, for it comes and goes.
    None where the model has no price."""
    latency: tuple[Latency, ...]
    illegal_share: float | None
    """Of the test rows; None where labels are scored or texts written."""
    fault: str | None = None
    """Why nothing of this is known."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is said of its answers."""
        if self.fault is not None:
            return (f"the price of a request is unknown: its answers are no longer kept, and {self.fault}",)
        share = self.illegal_share
        return (f"{share:.1%} were none of the labels and count as the first of them",) if share else ()

    def price(self, own: float) -> float | None:
        """US dollars for 1000 requests, with what is to be done here."""
        return None if self.usd is None else own + 1000 * self.usd

    def ownership(self, own: float, found_usd: float | None, prices: Prices) -> float | None:
        """US dollars for everything, with what was paid to find it."""
        if self.usd is None or found_usd is None:
            return None
        return own + found_usd + self.usd * prices.requests_per_month * prices.months


def bought(
    adapter: Adapter, examples: Sequence[Example], store: FeatureStore, price: TokenPrices | None
) -> Bought | None:
    """What was billed for rows that are answered; None where none of it was asked elsewhere.

    Args:
        adapter: The candidate's.
        examples: Rows it has answered: those that are no longer in the cache are asked, and paid, again.
        store: Its base.
        price: Of the model.
    """
    try:
        heard = store.backbone.overheard(lambda: answer(adapter, examples, store))
    except (OutOfTime, EndpointError) as error:
        why = "nothing is left to ask again" if isinstance(error, OutOfTime) else f"asked again: {error}"
        return Bought(extra_tokens=None, usd=None, latency=(), illegal_share=None, fault=why)
    if not heard:
        return None
    rows = len(examples)
    input_tokens = sum(each.usage.input_tokens for each in heard) / rows
    output_tokens = sum(each.usage.output_tokens for each in heard) / rows
    by_byte = input_tokens * rows / max(1, sum(each.prompt_bytes for each in heard))
    text_bytes = sum(len(whole_text(example).encode("utf-8", "surrogatepass")) for example in examples) / rows
    read = [each.illegal for each in heard if each.illegal is not None]
    return Bought(
        extra_tokens=round(input_tokens - by_byte * text_bytes, 3),
        usd=None if price is None else price.usd(input_tokens=input_tokens, output_tokens=output_tokens),
        latency=(_waited(heard, rows),),
        illegal_share=sum(read) / len(read) if read else None,
    )


def _waited(heard: Sequence[Heard], rows: int) -> Latency:
    """As long as the answers took when they were asked for; several to a row one after the other."""
    times_ms = [each.waited_ms * len(heard) / rows for each in heard]
    p50, p95 = np.quantile(times_ms, (0.5, 0.95)).tolist()
    return Latency(batch=1, p50_ms=round(p50, 3), p95_ms=round(p95, 3))
