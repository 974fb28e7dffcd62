"""How a number is written, so that the same quantity looks the same everywhere on the page."""

from collections.abc import Callable

from markupsafe import Markup

from tunewright.report.text import line
from tunewright.types import Estimate

NONE = "\u2013"
"""What stands where there is no number."""

MINUS = "\u2212"
NBSP = "\u00a0"


def exact(value: float | None, shown: Callable[[float], str]) -> Markup:
    """A rounded number that carries its exact value for machines, in the element HTML has for it; a dash for none."""
    return Markup(NONE) if value is None else Markup('<data value="{}">{}</data>').format(repr(value), shown(value))


def percent(value: float | None) -> Markup:
    """A share in [0, 1] as `86.2%`."""
    return exact(value, lambda share: f"{100 * share:.1f}%")


def share(value: float | None) -> Markup:
    """A share in [0, 1] in per cent without the sign: `86.2`, for a column or a sentence that says the unit."""
    return exact(value, lambda share: f"{100 * share:.1f}")


def points(difference: float | None) -> Markup:
    """A difference of shares in points, always with a sign: `+3.2`; but `0.0`."""

    def shown(value: float) -> str:
        text = f"{100 * value:+.1f}".replace("-", MINUS)
        return "0.0" if text[1:] == "0.0" else text

    return exact(difference, shown)


def interval(estimate: Estimate) -> Markup:
    """The 95% interval of a share, `83.1 to 89.0`, without the value."""
    return Markup("{} to {}").format(share(estimate.low), share(estimate.high))


def probability(value: float | None) -> Markup:
    """A p-value: three decimals, or `< .001`."""
    return exact(value, lambda p: "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0"))


def seconds(value: float | None) -> Markup:
    """A duration in the unit that reads best."""

    def shown(value_s: float) -> str:
        size, unit = (1, "s") if value_s < 120 else (60, "min") if value_s < 7200 else (3600, "h")
        return f"{significant(value_s / size)}{NBSP}{unit}"

    return exact(value, shown)


def size(value: float | None) -> Markup:
    """Bytes in powers of 1000."""
    return exact(value, lambda num: _scaled(num, ("B", "kB", "MB", "GB", "TB")))


def count(value: float | None) -> Markup:
    """A whole number: with thousands marked, or in millions where it is long."""
    return exact(value, lambda num: f"{num:,.0f}" if num < 100_000 else _scaled(num, ("", "k", "M", "G", "T")))


def plain(value: float | None) -> Markup:
    """A number without a unit, three significant digits."""
    return exact(value, significant)


def usd(value: float | None) -> Markup:
    """US dollars, three significant digits: `$0.000171`, `$1,240`; what is next to nothing as `< $0.000001`."""
    return exact(value, lambda dollars: "< $0.000001" if 0 < dollars < 1e-6 else f"${significant(dollars)}")


def millis(value: float | None) -> Markup:
    """A latency in milliseconds."""
    return exact(value, lambda value_ms: f"{significant(value_ms)}{NBSP}ms")


def counted(value: int, noun: str) -> Markup:
    """A count with what is counted: `1 pair`, `36 pairs`."""
    return Markup("{} {}{}").format(count(value), noun, "" if value == 1 else "s")


def setting(value: object) -> Markup:
    """A setting's value: a float, which the search may have drawn, with three significant digits; others as is."""
    return plain(value) if isinstance(value, float) else Markup.escape(line(str(value)))


_PRICES = {
    "usd_per_petaflop": "{} US dollars for 10<sup>15</sup> operations",
    "usd_per_gigabyte_month": "{} US dollars for a gigabyte held in memory for a month",
    "requests_per_month": "{} requests a month",
    "months": "{} months of service",
}


def price(value: float, name: str) -> Markup:
    """An assumption behind the modelled price, in words with its unit; one that is not known under its own name."""
    known = _PRICES.get(name)
    if known is None:
        return Markup("{} {}").format(line(name.replace("_", " ")), plain(value))
    return Markup(known).format(plain(value))


def significant(value: float) -> str:
    """Three significant digits, never in scientific notation between 1e-6 and 1e15."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{float(f'{value:.3g}'):.9f}" if abs(value) >= 1e-6 else f"{value:.1e}"
    return text.rstrip("0").rstrip(".") if "e" not in text else text


def _scaled(value: float, units: tuple[str, ...]) -> str:
    step, scaled = 0, float(value)
    while scaled >= 999.5 and step < len(units) - 1:
        step, scaled = step + 1, scaled / 1000
    return f"{significant(scaled)}{NBSP}{units[step]}".rstrip(NBSP)
