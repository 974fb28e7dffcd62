"""How numbers are written."""

import re

import pytest

from tunewright.report import numbers
from tunewright.types import Estimate


def shown(markup: str) -> str:
    return re.sub(r"<[^>]+>", "", markup).replace("\u00a0", " ").replace("&lt;", "<")


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (numbers.percent, 0.8625, "86.2%"),
        (numbers.percent, 1.0, "100.0%"),
        (numbers.share, 0.051, "5.1"),
        (numbers.points, 0.0321, "+3.2"),
        (numbers.points, -0.0321, "\u22123.2"),
        (numbers.points, -0.0001, "0.0"),
        (numbers.probability, 0.0004, "< .001"),
        (numbers.probability, 0.0421, ".042"),
        (numbers.probability, 1.0, "1.000"),
        (numbers.seconds, 0.42, "0.42 s"),
        (numbers.seconds, 119.0, "119 s"),
        (numbers.seconds, 150.0, "2.5 min"),
        (numbers.seconds, 9000.0, "2.5 h"),
        (numbers.size, 0, "0 B"),
        (numbers.size, 33_792, "33.8 kB"),
        (numbers.size, 999_999, "1 MB"),
        (numbers.size, 90_868_376, "90.9 MB"),
        (numbers.count, 1234, "1,234"),
        (numbers.count, 22_716_296, "22.7 M"),
        (numbers.usd, 0.000171, "$0.000171"),
        (numbers.usd, 1.5e-9, "< $0.000001"),
        (numbers.usd, 0, "$0"),
        (numbers.usd, 1240.4, "$1,240"),
        (numbers.millis, 28.61, "28.6 ms"),
        (numbers.plain, 0.000171, "0.000171"),
        (numbers.plain, 0, "0"),
        (numbers.plain, 12.345, "12.3"),
        (numbers.plain, 100_000.0, "100,000"),
    ],
)
def test_numbers_read_well_and_keep_their_exact_value(write: object, value: float, text: str) -> None:
    assert callable(write)
    markup = write(value)
    assert shown(markup) == text
    assert f'<data value="{value!r}">' in markup


@pytest.mark.parametrize(
    "write",
    [
        numbers.percent,
        numbers.share,
        numbers.points,
        numbers.probability,
        numbers.seconds,
        numbers.size,
        numbers.count,
        numbers.usd,
        numbers.millis,
    ],
)
def test_no_number_is_a_dash(write: object) -> None:
    assert callable(write)
    assert write(None) == numbers.NONE


def test_an_interval_has_both_ends() -> None:
    markup = numbers.interval(Estimate(value=0.5, low=0.4312, high=0.5688, n=200))
    assert shown(markup) == "43.1 to 56.9"
    assert re.findall(r'value="([^"]+)"', markup) == ["0.4312", "0.5688"]
