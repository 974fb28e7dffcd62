"""The modelled cost of a candidate: operations, tokens and bytes times prices.

Modelled, so that the decision does not flip with the machine's mood; measured seconds stand beside it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from tunewright.config import read_yaml
from tunewright.errors import ConfigError, unknown

FORWARD = 2
"""FLOPs per parameter and token: one multiplication and one addition."""
FROZEN_TRAINING = 4
"""Forward, and backward through the activations of a frozen base."""
FULL_TRAINING = 6
"""Forward, and backward through activations and weights (Kaplan et al. 2020, section 2.1)."""

_FLOPS_PER_PETAFLOP = 1e15
_BYTES_PER_GIGABYTE = 1e9
_SECONDS_PER_HOUR = 3600.0
_DAYS_PER_MONTH = 365 / 12


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
    usd_per_hour: float = 0.08
    """The machine that the comparison runs on."""
    requests_per_month: float = 100_000
    """Volume over which what is held in memory is shared."""
    months: float = 12
    """Life of a candidate, over which its training is shared."""

    def __post_init__(self) -> None:
        faults = [_not_a_price(name, value) for name in _PRICES if not _is_price(value := getattr(self, name))]
        volumes = {name: getattr(self, name) for name in _VOLUMES}
        faults += [_not_a_price(n, value, ">") for n, value in volumes.items() if not (_is_price(value) and value > 0)]
        if faults:
            raise ConfigError(faults)

    def machine(self, seconds: float) -> float:
        """US dollars for so many seconds of the machine that the comparison runs on."""
        return seconds * self.usd_per_hour / _SECONDS_PER_HOUR


_PRICES = ("usd_per_petaflop", "usd_per_gigabyte_month", "usd_per_hour")
_VOLUMES = ("requests_per_month", "months")
_OUTSIDE, _MODELS = "outside", "models"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrices:
    """US dollars for 10**6 tokens of a model behind an endpoint."""

    input: float
    output: float
    cached_input: float | None = None
    """Of input that the endpoint has seen shortly before; as other input where absent."""

    def usd(self, *, input_tokens: float, output_tokens: float, cached_tokens: float = 0.0) -> float:
        """Of a request."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh_tokens = input_tokens - cached_tokens
        return (fresh_tokens * self.input + cached_tokens * cached + output_tokens * self.output) / _TOKENS


_TOKENS = 1e6
_TOKEN_PRICES = tuple(f.name for f in fields(TokenPrices))


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceList:
    """All prices of a run."""

    prices: Prices = field(default_factory=Prices)
    outside: Mapping[str, float] = field(default_factory=dict)
    """Name of a candidate that is answered elsewhere -> US dollars for 1000 requests."""
    models: Mapping[str, TokenPrices] = field(default_factory=dict)
    """Model behind an endpoint, without its URL -> what its tokens cost."""


def read_prices(
    path: str | None = None, *, requests_per_day: float | None = None, months: float | None = None
) -> PriceList:
    """The user's prices: defaults, with the file on top, with the two volumes on top of that.

    Args:
        path: YAML file with any field of `Prices`, `outside: {NAME: US dollars for 1000 requests}` and
            `models: {NAME: {input: ..., output: ..., cached_input: ...}}`, US dollars for 10**6 tokens.
        requests_per_day: Replaces `requests_per_month`; a month has 365 / 12 days.
        months: Replaces `months`.

    Raises:
        ConfigError: With every fault at once: no such file, unknown keys (the nearest name offered), no numbers,
            numbers out of range.
    """
    given = {} if path is None else read_yaml(Path(path))
    outside, priced = given.pop(_OUTSIDE, {}), given.pop(_MODELS, {})
    allowed = [f.name for f in fields(Prices)]
    faults = [unknown("price", name, [*allowed, _OUTSIDE, _MODELS]) for name in given if name not in allowed]
    if not isinstance(outside, dict):
        faults.append(f"`outside` must hold `NAME: US dollars for 1000 requests` lines. Got {outside!r}.")
        outside = {}
    faults += [_not_a_price(f"outside: {k}", v) for k, v in outside.items() if not _is_price(v)]
    models, wrong = _token_prices(priced)
    faults += wrong
    if requests_per_day is not None:
        given["requests_per_month"] = requests_per_day * _DAYS_PER_MONTH
    if months is not None:
        given["months"] = months
    prices = Prices()
    try:
        prices = Prices(**{name: value for name, value in given.items() if name in allowed})
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults if path is None else [f"{path}: {fault}" for fault in faults])
    return PriceList(prices=prices, outside={str(k): float(usd) for k, usd in outside.items()}, models=models)


def _token_prices(content: object) -> tuple[dict[str, TokenPrices], list[str]]:
    """Prices of models, and what is wrong with them."""
    found, faults = dict[str, TokenPrices](), list[str]()
    if not isinstance(content, dict):
        return found, [f"`models` must hold `NAME: {{input: USD, output: USD}}` lines. Got {content!r}."]
    for name, values in content.items():
        if not isinstance(values, dict) or not {"input", "output"} <= set(values):
            faults.append(
                f"`models: {name}` must hold `input` and `output`, US dollars a million tokens. Got {values!r}."
            )
            continue
        wrong = [unknown("price of a model", str(key), _TOKEN_PRICES) for key in values if key not in _TOKEN_PRICES]
        wrong += [_not_a_price(f"models: {name}: {k}", v) for k, v in values.items() if not _is_price(v)]
        faults += wrong
        if not wrong:
            found[str(name)] = TokenPrices(**{key: float(value) for key, value in values.items()})
    return found, faults


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _not_a_price(name: str, value: object, sign: str = ">=") -> str:
    got = f"{value:g}" if isinstance(value, float) else repr(value)
    return f"`{name}` must be {sign} 0. Got {got}."


def time_limit_s(budget_s: float | None, max_cost: float | None, prices: Prices) -> float | None:
    """Seconds that a run may take: its budget, or what `max_cost` buys of the machine, whichever is less.

    Raises:
        ConfigError: A limit of the cost where the machine costs nothing.
    """
    if max_cost is None:
        return budget_s
    if prices.usd_per_hour == 0:
        raise ConfigError(
            "`max_cost` has no effect: `usd_per_hour` of the prices is 0. Give a price above 0 or use --budget."
        )
    affordable_s = max_cost / prices.usd_per_hour * _SECONDS_PER_HOUR
    return affordable_s if budget_s is None else min(budget_s, affordable_s)


def serving_flops(
    *, backbone_parameters: float, adapter_parameters: float, tokens: float, extra_tokens: float = 0.0
) -> float:
    """Operations that answer one request: 2 x parameters x tokens (Kaplan et al. 2020, section 2.1).

    Args:
        backbone_parameters: Of the base, as many as a token runs through on average; 0 for a candidate that does not
            run it.
        adapter_parameters: What the adapter adds to the work of each token: LoRA factors, a prefix's keys and values,
            a head. 0 for a soft prompt, whose vectors are extra tokens, and for full weights, which replace the base's.
        tokens: Mean tokens of a request.
        extra_tokens: What the candidate puts beside the text in each request: instruction, demonstrations, soft prompt.
    """
    return FORWARD * (backbone_parameters + adapter_parameters) * (tokens + extra_tokens)


def search_flops(*, pool_rows: int, dimensions: int) -> float:
    """Operations that compare one text with each row of a retrieval pool."""
    return FORWARD * pool_rows * dimensions


def training_flops(*, parameters: float, tokens: float, flops_per_parameter: int) -> float:
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
    not in it: that is spent whatever is chosen. With the default prices, a base of 23 million parameters and inputs of
    some 30 tokens the order is: majority, zero-shot, linear probe, few-shot (with thousands of rows in its pool after
    prefix), prefix, LoRA, soft prompt of 20 vectors, full weights. Full weights cost less than some 270 extra tokens in
    each request cost.
    """
    flop = prices.usd_per_petaflop / _FLOPS_PER_PETAFLOP
    held = held_bytes * prices.usd_per_gigabyte_month / _BYTES_PER_GIGABYTE / prices.requests_per_month
    training = training_flops * flop / (prices.requests_per_month * prices.months)
    return 1000 * (serving_flops * flop + held + training)


def ownership(
    *, serving_flops: float, tuning_flops: float, training_flops: float, held_bytes: float, prices: Prices
) -> float:
    """US dollars for everything: finding a candidate, training it and serving it for its life.

        (tuning_flops + training_flops) x usd_per_flop
        + held_bytes x usd_per_byte_month x months
        + serving_flops x usd_per_flop x requests_per_month x months

    Args:
        serving_flops: Of one request.
        tuning_flops: Of all trials and refits of the candidate but the shipped one: its share of the run.
        training_flops: Of the shipped one.
        held_bytes: As in `price`.
        prices: Prices and volume.
    """
    flop = prices.usd_per_petaflop / _FLOPS_PER_PETAFLOP
    memory = held_bytes / _BYTES_PER_GIGABYTE * prices.usd_per_gigabyte_month * prices.months
    requests = prices.requests_per_month * prices.months
    return (tuning_flops + training_flops) * flop + memory + serving_flops * flop * requests
