"""What is required of a candidate: read with all faults at once, held against the figures, and the nearest misses."""

from typing import Any

import pytest

from tunewright.errors import ConfigError
from tunewright.evaluation.requirements import doubts, nearest_misses, parse, unmet
from tunewright.runs.comparison import Candidate, Cost, Latency
from tunewright.types import Estimate

COST = Cost(
    peak_memory_bytes=800_000_000, adapter_bytes=5_000_000, trainable_parameters=1000, extra_tokens_per_request=20.0,
    price=0.002, ownership=30.0,
    latency=(Latency(batch=32, p50_ms=90.0, p95_ms=99.0), Latency(batch=1, p50_ms=10.0, p95_ms=50.0)),
)  # fmt: skip


def candidate(name: str = "lora", quality: float | None = 0.9, **changed: Any) -> Candidate:
    test = None if quality is None else Estimate(value=quality, low=quality - 0.05, high=quality + 0.05, n=100)
    given: dict[str, Any] = {"family": "fine-tuning", "parts": ("lora", "head"), "cost": COST} | changed
    return Candidate(id=name, method=name, backbone="base", status="ok", test=test, **given)


@pytest.mark.parametrize(
    ("met", "missed", "said"),
    [
        ("quality>=0.9", "quality>=0.9001", "quality 0.9, required at least 0.9001"),
        ("latency_p50_ms<=10", "latency_p50_ms<=9.9", "latency_p50_ms 10 ms, required at most 9.9 ms"),
        ("latency_p95_ms<=50", "latency_p95_ms<=49", "latency_p95_ms 50 ms, required at most 49 ms"),
        ("bytes<=5MB", "bytes<=4999kB", "bytes 5 MB, required at most 4.999 MB"),
        ("bytes<=0.005GB", "bytes<=100", "bytes 5 MB, required at most 100 B"),
        ("memory<=800MB", "memory<=0.5GB", "memory 800 MB, required at most 500 MB"),
        ("price<=0.002", "price<=1e-3", "price 0.002 USD for 1000 requests, required at most 0.001 USD for 1000"),
        ("ownership<=30", "ownership<=29", "ownership 30 USD, required at most 29 USD"),
        ("extra_tokens<=20", "extra_tokens<=0", "extra_tokens 20, required at most 0"),
        ("trainable_parameters<=1000", "trainable_parameters<=999", "trainable_parameters 1000, required at most 999"),
    ],
)
def test_figures_on_both_sides_of_the_limit(met: str, missed: str, said: str) -> None:
    assert unmet(parse([met]), candidate()) == ()
    (failure,) = unmet(parse([missed]), candidate())
    assert failure.startswith(said)


def test_what_nobody_measured_meets_nothing() -> None:
    wanted = parse(["quality>=0", "bytes<=1GB", "latency_p95_ms<=1000"])
    assert unmet(wanted, candidate(quality=None, cost=Cost())) == (
        "quality not measured, required at least 0",
        "bytes not measured, required at most 1 GB",
        "latency_p95_ms not measured, required at most 1000 ms",
    )


@pytest.mark.parametrize(
    ("parts", "is_editable"),
    [
        (("verbalizer", "calibration"), True),
        (("demonstrations",), True),
        (("calibration",), False),
        (("head",), False),
        (("lora", "head"), False),
        (("soft_prompt", "verbalizer"), False),
        (("prefix", "demonstrations"), False),
        (("weights", "head"), False),
    ],
)
def test_editable_is_text_and_nothing_learned(parts: tuple[str, ...], is_editable: bool) -> None:
    failures = unmet(parse(["editable"]), candidate(parts=parts))
    assert failures == (() if is_editable else ("editable: it cannot be changed by editing text",))


def test_local_is_everything_but_outside() -> None:
    assert unmet(parse(["local"]), candidate()) == ()
    assert unmet(parse(["local"]), candidate(family="outside", parts=())) == ("local: it is answered elsewhere",)


def test_spaces_do_not_matter() -> None:
    (found,) = parse([" bytes  <= 5 MB "])
    assert (found.name, found.limit, found.text) == ("bytes", 5e6, "bytes<=5MB")


def test_all_faults_at_once() -> None:
    terms = ["qualty>=.9", "bytes>=5", "quality>=90", "local<=2", "price", "latency_p95_ms<=5s", "local", "local"]
    with pytest.raises(ConfigError) as caught:
        parse(terms)
    starts = (
        "unknown requirement 'qualty'. Did you mean 'quality'? Allowed: quality, latency_p50_ms,",
        "`require`: bytes needs <= and a number of at least 0, with B, kB, MB or GB if wanted. Got 'bytes>=5'.",
        "`require`: quality needs >= and a number from 0 to 1. Got 'quality>=90'. Write quality>=0.9.",
        "`require`: local takes no number. Got 'local<=2'. Write local.",
        "`require`: price needs <= and a number of at least 0. Got 'price'. Write price<=0.01.",
        "`require`: latency_p95_ms needs <= and a number of at least 0. Got 'latency_p95_ms<=5s'.",
        "`require` names local twice. Give it once.",
    )
    assert len(caught.value.faults) == len(starts)
    for fault, start in zip(caught.value.faults, starts, strict=True):
        assert fault.startswith(start)


def test_nearest_misses_lack_least() -> None:
    """Fewest failures first, then the smallest relative shortfall; what was not measured is no miss."""
    wanted = parse(["quality>=0.9", "bytes<=5MB"])
    found = nearest_misses(
        wanted,
        [
            candidate("far", 0.1),
            candidate("both", 0.89, cost=Cost(adapter_bytes=6_000_000)),
            candidate("never", None),
            candidate("near", 0.85),
            candidate("middle", 0.9, cost=Cost(adapter_bytes=10_000_000)),
        ],
    )
    assert [each.split()[0] for each in found] == ["near", "far", "middle"]
    assert found[0] == "near lacks quality 0.85, required at least 0.9"


def test_an_interval_that_reaches_below_is_said() -> None:
    wanted = parse(["quality>=0.86"])
    assert doubts(wanted, candidate(quality=0.92)) == ""
    said = doubts(wanted, candidate(quality=0.9))
    assert said == " The required 86% is met by the measured value; the interval reaches below it, to 85.0%."
    assert doubts(parse(["local"]), candidate(quality=0.1)) == ""
