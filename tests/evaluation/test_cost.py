"""The modelled price: by hand, in its order, and without the machine."""

from pathlib import Path

import pytest

from tunewright.errors import ConfigError
from tunewright.evaluation.cost import (
    FROZEN_TRAINING,
    FULL_TRAINING,
    Prices,
    ownership,
    price,
    read_prices,
    search_flops,
    serving_flops,
    time_limit_s,
    training_flops,
)

BASE, TOKENS = 22_700_000, 30.0


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


def priced(*, extra: float = 0, held: float = 0) -> float:
    serving = serving_flops(backbone_parameters=BASE, adapter_parameters=0, tokens=TOKENS, extra_tokens=extra)
    return price(serving_flops=serving, training_flops=0, held_bytes=held, prices=Prices())


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


# --- cost of ownership ------------------------------------------------------------------------------------------------


def test_ownership_by_ten_naive_lines() -> None:
    """Month by month and request by request, as a bill would have it."""
    prices = Prices(usd_per_petaflop=2.0, usd_per_gigabyte_month=5.0, requests_per_month=1_000, months=10)
    got = ownership(serving_flops=3e12, tuning_flops=7e15, training_flops=4e15, held_bytes=6e9, prices=prices)
    bill = 0.0
    bill += 7 * prices.usd_per_petaflop  # every trial, and the refits that are not shipped
    bill += 4 * prices.usd_per_petaflop  # the shipped one
    for _month in range(10):
        bill += 6 * prices.usd_per_gigabyte_month
        for _request in range(1_000):
            bill += 3e12 / 1e15 * prices.usd_per_petaflop
    assert got == pytest.approx(bill, rel=1e-9)


def test_ownership_without_the_search_is_the_price_of_all_requests() -> None:
    prices = Prices(requests_per_month=5_000, months=7)
    given = {"serving_flops": 2e9, "training_flops": 3e15, "held_bytes": 4e7, "prices": prices}
    whole = ownership(tuning_flops=0, **given)  # type: ignore[arg-type]
    assert whole == pytest.approx(price(**given) * 5_000 * 7 / 1000, rel=1e-12)  # type: ignore[arg-type]


# --- the user's prices ------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_replaces_some_prices_and_the_volume_comes_on_top(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", "usd_per_hour: 3\nmonths: 6\nrequests_per_month: 7\noutside: {gpt: 0.5, 12: 0}\n")
    found = read_prices(path)
    assert found.prices == Prices(usd_per_hour=3, months=6, requests_per_month=7)
    assert found.outside == {"gpt": 0.5, "12": 0.0}
    volume = read_prices(path, requests_per_day=20_000, months=24).prices
    assert volume.requests_per_month == pytest.approx(20_000 * 365 / 12)
    assert (volume.months, volume.usd_per_hour) == (24, 3)
    assert read_prices().prices == Prices()


def test_all_faults_of_a_file_at_once(tmp_path: Path) -> None:
    text = (
        "usd_per_huor: 3\nusd_per_petaflop: cheap\nmonths: 0\nusd_per_gigabyte_month: -1\noutside: {a: -1, b: dear}\n"
        "models: {m: {input: -1, output: 2, ouput: 1}, n: 3}\n"
    )
    path = write(tmp_path / "p.yaml", text)
    with pytest.raises(ConfigError) as caught:
        read_prices(path)
    allowed = "usd_per_petaflop, usd_per_gigabyte_month, usd_per_hour, requests_per_month, months, outside, models"
    assert caught.value.faults == (
        f"{path}: unknown price 'usd_per_huor'. Did you mean 'usd_per_hour'? Allowed: {allowed}.",
        f"{path}: `outside: a` must be >= 0. Got -1.",
        f"{path}: `outside: b` must be >= 0. Got 'dear'.",
        f"{path}: unknown price of a model 'ouput'. Did you mean 'output'? Allowed: input, output, cached_input.",
        f"{path}: `models: m: input` must be >= 0. Got -1.",
        f"{path}: `models: n` must hold `input` and `output`, US dollars a million tokens. Got 3.",
        f"{path}: `usd_per_petaflop` must be >= 0. Got 'cheap'.",
        f"{path}: `usd_per_gigabyte_month` must be >= 0. Got -1.",
        f"{path}: `months` must be > 0. Got 0.",
    )


def test_outside_must_be_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`outside` must hold `NAME: US dollars for 1000 requests` lines\. Got 3\."):
        read_prices(write(tmp_path / "p.yaml", "outside: 3\n"))


# --- a limit of the cost ----------------------------------------------------------------------------------------------


def test_a_limit_of_the_cost_is_one_of_the_time() -> None:
    prices = Prices(usd_per_hour=2.0)
    assert prices.machine(1800) == 1.0
    assert time_limit_s(None, None, prices) is None
    assert time_limit_s(90.0, None, prices) == 90.0
    assert time_limit_s(None, 0.5, prices) == 900.0
    assert time_limit_s(600.0, 0.5, prices) == 600.0
    assert time_limit_s(1200.0, 0.5, prices) == 900.0


def test_a_limit_of_the_cost_of_a_free_machine_has_no_effect() -> None:
    with pytest.raises(ConfigError, match="`max_cost` has no effect: `usd_per_hour` of the prices is 0"):
        time_limit_s(None, 0.5, Prices(usd_per_hour=0))


def test_tokens_of_a_model_behind_an_endpoint(tmp_path: Path) -> None:
    """A million tokens in at 2, a tenth of them cached at .5, 30,000 out at 8; without a price, cached is as other."""
    path = write(tmp_path / "p.yaml", "models: {m: {input: 2, output: 8, cached_input: .5}, n: {input: 2, output: 8}}")
    models = read_prices(path).models
    tokens = {"input_tokens": 1_000_000, "cached_tokens": 100_000, "output_tokens": 30_000}
    assert models["m"].usd(**tokens) == pytest.approx(1.8 + 0.05 + 0.24)
    assert models["n"].usd(**tokens) == pytest.approx(2 + 0.24)
