"""How a number is written, so that the same quantity looks the same everywhere on the page."""

from markupsafe import Markup

from tunewright.report.text import line
from tunewright.types import Estimate

NONE = "\u2013"
"""What stands where there is no number."""

MINUS = "\u2212"
NBSP = "\u00a0"


def exact(value: float | int | None, shown: str) -> Markup:
    """A rounded number that carries its exact value for machines, in the element HTML has for it."""
    if value is None:
        return Markup(NONE)
    return Markup('<data value="{}">{}</data>').format(repr(value), shown)


def percent(value: float | None) -> Markup:
    """A share in [0, 1] as `86.2%`."""
    return exact(value, NONE if value is None else f"{100 * value:.1f}%")


def share(value: float | None) -> Markup:
    """A share in [0, 1] in per cent without the sign: `86.2`, for a column or a sentence that says the unit."""
    return exact(value, NONE if value is None else f"{100 * value:.1f}")


def points(difference: float | None) -> Markup:
    """A difference of shares in points, always with a sign: `+3.2`."""
    if difference is None:
        return Markup(NONE)
    text = f"{100 * difference:+.1f}".replace("-", MINUS)
    return exact(difference, "0.0" if float(f"{100 * difference:.1f}") == 0 else text)


def interval(estimate: Estimate) -> Markup:
    """The 95% interval of a share, `83.1 to 89.0`, without the value."""
    return Markup("{} to {}").format(share(estimate.low), share(estimate.high))


def probability(value: float | None) -> Markup:
    """A p-value: three decimals, or `< .001`."""
    if value is None:
        return Markup(NONE)
    return exact(value, "< .001" if value < 0.001 else f"{value:.3f}".removeprefix("0"))


def seconds(value: float | None) -> Markup:
    """A duration in the unit that reads best."""
    if value is None:
        return Markup(NONE)
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h")):
        if value < limit:
            return exact(value, f"{significant(value / size)}{NBSP}{unit}")
    return exact(value, f"{value}{NBSP}s")


def size(value: float | None) -> Markup:
    """Bytes in powers of 1000."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def count(value: float | None) -> Markup:
    """A whole number: with thousands marked, or in millions where it is long."""
    if value is not None and value < 100_000:
        return exact(value, f"{value:,.0f}")
    return _scaled(value, ("", "k", "M", "G", "T"))


def plain(value: float | None) -> Markup:
    """A number without a unit, three significant digits."""
    return Markup(NONE) if value is None else exact(value, significant(value))


def usd(value: float | None) -> Markup:
    """US dollars, three significant digits: `$0.000171`, `$1,240`; what is next to nothing as `< $0.000001`."""
    if value is None:
        return Markup(NONE)
    return exact(value, "< $0.000001" if 0 < value < 1e-6 else f"${significant(value)}")


def millis(value: float | None) -> Markup:
    """A latency in milliseconds."""
    return Markup(NONE) if value is None else exact(value, f"{significant(value)}{NBSP}ms")


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


def _scaled(value: float | None, units: tuple[str, ...]) -> Markup:
    if value is None:
        return Markup(NONE)
    step, scaled = 0, float(value)
    while scaled >= 999.5 and step < len(units) - 1:
        step, scaled = step + 1, scaled / 1000
    return exact(value, f"{significant(scaled)}{NBSP}{units[step]}".rstrip(NBSP))
