"""The modelled price: by hand, in its order, and without the machine."""

import pytest

from tunewright.errors import ConfigError
from tunewright.evaluation.cost import (
    FORWARD,
    FROZEN_TRAINING,
    FULL_TRAINING,
    Prices,
    price,
    search_flops,
    serving_flops,
    training_flops,
)

BASE, WIDTH, LAYERS, TOKENS = 22_700_000, 384, 6, 30.0
SEEN_TOKENS = 1_000 * 5 * TOKENS
LORA = 6 * LAYERS * 2 * 8 * WIDTH
PREFIX = LAYERS * 2 * 20 * WIDTH


def test_flops_by_hand() -> None:
    assert serving_flops(backbone_parameters=100, adapter_parameters=10, tokens=7, extra_tokens=3) == 2 * 110 * 10
    assert search_flops(pool_rows=50, dimensions=4) == 2 * 50 * 4
    assert training_flops(parameters=100, tokens=20, flops_per_parameter=FROZEN_TRAINING) == 4 * 100 * 20
    assert training_flops(parameters=100, tokens=20, flops_per_parameter=FULL_TRAINING) == 6 * 100 * 20


def test_price_by_hand() -> None:
    prices = Prices(usd_per_petaflop=2.0, usd_per_gigabyte_month=5.0, requests_per_month=1_000, months=10)
    got = price(serving_flops=3e12, training_flops=4e15, held_bytes=7e9, prices=prices)
    a_thousand_requests, a_month_of_memory, a_share_of_training = 3 * 2.0, 7 * 5.0, 4 * 2.0 / 10
    assert got == pytest.approx(a_thousand_requests + a_month_of_memory + a_share_of_training, rel=1e-12)


def priced(*, adapter: int = 0, extra: float = 0, held: float = 0, trained: float = 0, search: float = 0) -> float:
    serving = serving_flops(backbone_parameters=BASE, adapter_parameters=adapter, tokens=TOKENS, extra_tokens=extra)
    return price(serving_flops=serving + search, training_flops=trained, held_bytes=held, prices=Prices())


def trained(factor: int, extra: float = 0) -> float:
    tokens = SEEN_TOKENS * (TOKENS + extra) / TOKENS
    return training_flops(parameters=BASE, tokens=tokens, flops_per_parameter=factor)


def test_order_of_the_methods() -> None:
    """A 22.7M encoder, 30 tokens, 1000 rows for 5 epochs: from no base at all to a base of one's own."""
    majority = price(serving_flops=0, training_flops=0, held_bytes=64, prices=Prices())
    zero_shot = priced(held=8 * WIDTH * 4)
    probe = priced(adapter=8 * WIDTH, held=8 * WIDTH * 4 + 8, trained=trained(FORWARD) / 5)
    prefix = priced(adapter=PREFIX, held=PREFIX * 4, trained=trained(FROZEN_TRAINING))
    lora = priced(adapter=LORA, held=LORA * 4, trained=trained(FROZEN_TRAINING))
    soft_prompt = priced(extra=20, held=20 * WIDTH * 4, trained=trained(FROZEN_TRAINING, extra=20))
    pool_search = search_flops(pool_rows=1_000, dimensions=WIDTH)
    few_shot = priced(extra=4 * TOKENS, held=1_000 * (WIDTH * 4 + 200), search=pool_search)
    full = priced(held=BASE * 4, trained=trained(FULL_TRAINING))
    in_order = [majority, zero_shot, probe, prefix, lora, soft_prompt, few_shot, full]
    assert in_order == sorted(in_order)
    assert len(set(in_order)) == len(in_order)


def test_full_weights_cost_as_much_as_270_extra_tokens() -> None:
    """As the docstring of `price` says."""
    assert priced(extra=260) < priced(held=BASE * 4) < priced(extra=280)


@pytest.mark.parametrize("name", ["requests_per_month", "months"])
def test_volumes_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be > 0. Got 0."):
        Prices(**{name: 0})


def test_all_faults_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Prices(usd_per_petaflop=-1, usd_per_gigabyte_month=float("nan"), months=-2)
    assert caught.value.faults == (
        "`usd_per_petaflop` must be >= 0. Got -1.",
        "`usd_per_gigabyte_month` must be >= 0. Got nan.",
        "`months` must be > 0. Got -2.",
    )


def test_free_things_are_free() -> None:
    prices = Prices(usd_per_petaflop=0, usd_per_gigabyte_month=0)
    assert price(serving_flops=1e15, training_flops=1e18, held_bytes=1e9, prices=prices) == 0
