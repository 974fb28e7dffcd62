"""The modelled cost of a candidate: operations, tokens and bytes times prices.

Modelled, so that the decision does not flip with the machine's mood; measured seconds stand beside it.
"""

from dataclasses import dataclass

from tunewright.errors import ConfigError

FORWARD = 2
"""FLOPs per parameter and token: one multiplication and one addition."""
FROZEN_TRAINING = 4
"""Forward, and backward through the activations of a frozen base."""
FULL_TRAINING = 6
"""Forward, and backward through activations and weights (Kaplan et al. 2020, section 2.1)."""

_FLOPS_PER_PETAFLOP = 1e15
_BYTES_PER_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What things cost and how much is asked; every field may be replaced by the user's own.

    Raises:
        ConfigError: A price is negative, or a volume not positive.
    """

    usd_per_petaflop: float = 0.22
    """10**15 floating point operations: a 2-core virtual machine at 0.08 USD an hour that does 100 GFLOP/s."""
    usd_per_gigabyte_month: float = 3.0
    """10**9 bytes held in a server's memory for a month."""
    requests_per_month: float = 100_000
    """Volume over which what is held in memory is shared."""
    months: float = 12
    """Life of a candidate, over which its training is shared."""

    def __post_init__(self) -> None:
        faults = [
            f"`{name}` must be >= 0. Got {value:g}."
            for name, value in (
                ("usd_per_petaflop", self.usd_per_petaflop),
                ("usd_per_gigabyte_month", self.usd_per_gigabyte_month),
            )
            if not value >= 0
        ]
        faults += [
            f"`{name}` must be > 0. Got {value:g}."
            for name, value in (("requests_per_month", self.requests_per_month), ("months", self.months))
            if not value > 0
        ]
        if faults:
            raise ConfigError(faults)


def serving_flops(
    *, backbone_parameters: int, adapter_parameters: int, tokens: float, extra_tokens: float = 0.0
) -> float:
    """Operations that answer one request: 2 x parameters x tokens (Kaplan et al. 2020, section 2.1).

    Args:
        backbone_parameters: Of the base; 0 for a candidate that does not run it.
        adapter_parameters: What the adapter adds to the work of each token: LoRA factors, a prefix's keys and values,
            a head. 0 for a soft prompt, whose vectors are extra tokens, and for full weights, which replace the base's.
        tokens: Mean tokens of a request.
        extra_tokens: What the candidate puts beside the text in each request: instruction, demonstrations, soft prompt.
    """
    return FORWARD * (backbone_parameters + adapter_parameters) * (tokens + extra_tokens)


def search_flops(*, pool_rows: int, dimensions: int) -> float:
    """Operations that compare one text with each row of a retrieval pool."""
    return FORWARD * pool_rows * dimensions


def training_flops(*, parameters: int, tokens: float, flops_per_parameter: int) -> float:
    """Operations of one training: k x parameters x tokens.

    Args:
        parameters: Of base and adapter.
        tokens: All tokens seen, extra tokens included: rows x epochs x tokens per row.
        flops_per_parameter: `FORWARD` where the features are computed once, `FROZEN_TRAINING` where gradients pass
            through a frozen base, `FULL_TRAINING` where the base is trained.
    """
    return flops_per_parameter * parameters * tokens


def price(*, serving_flops: float, training_flops: float, held_bytes: float, prices: Prices) -> float:
    """US dollars for 1000 requests.

        1000 x (serving_flops x usd_per_flop
                + held_bytes x usd_per_byte_month / requests_per_month
                + training_flops x usd_per_flop / (requests_per_month x months))

    The frozen base is shared by all tasks and costs no memory here. `held_bytes` is what the candidate adds to it: its
    adapter, its retrieval pool, or, for full weights, a whole base of its own. The search that found the candidate is
    not in it: that is spent whatever is chosen. With the default prices and inputs of some 30 tokens the order is:
    majority, zero-shot, linear probe, prefix and LoRA, soft prompt of 20 vectors, retrieved demonstrations with their
    pool, full weights. Full weights cost less than some 270 extra tokens in each request cost.
    """
    flop = prices.usd_per_petaflop / _FLOPS_PER_PETAFLOP
    held = held_bytes * prices.usd_per_gigabyte_month / _BYTES_PER_GIGABYTE / prices.requests_per_month
    training = training_flops * flop / (prices.requests_per_month * prices.months)
    return 1000 * (serving_flops * flop + held + training)
