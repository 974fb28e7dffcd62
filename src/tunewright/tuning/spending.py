"""What requests to endpoints take: a line for each in `requests.jsonl`, and whether the next may be sent.

A line is written before its answer is kept: what was paid is counted, whatever happens then. So is a request that was
sent and whose answer is lost or cannot be read, at the most that it may cost.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.backbones.heard import Usage
from tunewright.config import remote_model
from tunewright.errors import ConfigError
from tunewright.evaluation.cost import PriceList, TokenPrices
from tunewright.files import append_line, read_lines
from tunewright.runs.comparison import Requests
from tunewright.tuning.progress import Clock, Journal, OutOfTime, Purse

if TYPE_CHECKING:
    from tunewright.backbones.checkpoint import Checkpoint
    from tunewright.backbones.endpoint import Endpoint

FILE_NAME = "requests.jsonl"


class Spending:
    """The account of a run.

    Args:
        path: The file.
        prices: Model -> its prices.
        clock: Of the run; while a part of it goes on, that part's, which has its share of the money.
    """

    def __init__(self, path: Path, prices: Mapping[str, TokenPrices], clock: Clock) -> None:
        self._path, self._prices, self.clock = path, prices, clock
        self._lock = threading.Lock()
        self._reserved_usd = 0.0
        self._lines = read_lines(path)
        self.usd = sum(float(line.get("usd") or 0.0) for line in self._lines)
        """Spent so far, over all sessions."""
        self.payer = ""
        """The candidate that is worked for."""

    def reserve(self, model: str, input_tokens: int, output_tokens: int) -> float | None:
        """Before a request is sent; None where it has to wait for what others leave.

        Raises:
            OutOfTime: What it may cost at most is more than is left.
        """
        price = self._prices.get(model)
        most = 0.0 if price is None else price.usd(input_tokens=input_tokens, output_tokens=output_tokens)
        with self._lock:
            left_usd = self.clock.left_usd  # what was paid is taken off already
            if most > left_usd:
                raise OutOfTime
            if most + self._reserved_usd > left_usd:
                return None
            self._reserved_usd += most
        return most

    def settle(self, reserved: float, model: str, usage: Usage | None, *, lost: bool = False) -> None:
        """After it; what may be billed, though nobody here knows for how much, counts as the most that it may cost."""
        with self._lock:
            self._reserved_usd -= reserved
            if usage is not None:
                price = self._prices.get(model)
                usd = None if price is None else price.usd(**asdict(usage))
                self._add({"model": model, **asdict(usage), "usd": usd})
            elif lost and reserved > 0:
                self._add({"lost": model, "usd": reserved})

    def note(self, *, known: int = 0, retried: int = 0) -> None:
        """Answers that were known already, and tries that failed."""
        if known or retried:
            with self._lock:
                self._add({"known": known, "retried": retried})

    def _add(self, line: dict[str, object]) -> None:
        line = {"candidate": self.payer, **line}
        append_line(self._path, line)
        self._lines.append(line)
        self.usd += float(str(line.get("usd") or 0.0))

    def taken(self, candidate: str | None = None) -> Requests | None:
        """By one candidate, or by the run with what it asked before there were any; None where nothing was asked."""
        mine = [line for line in self._lines if candidate is None or line["candidate"] == candidate]
        if not mine:
            return None
        sent = [line for line in mine if "model" in line]
        priced = all(line["usd"] is not None for line in sent)

        def total(key: str) -> int:
            return sum(int(line.get(key, 0)) for line in mine)

        return Requests(
            sent=len(sent),
            known=total("known"),
            retried=total("retried"),
            input_tokens=total("input_tokens"),
            cached_tokens=total("cached_tokens"),
            output_tokens=total("output_tokens"),
            price=sum(float(line.get("usd", 0.0)) for line in mine) if priced else None,
        )


def open_spending(
    out: Path,
    max_usd: float | None,
    prices: PriceList,
    told: tuple[Clock, Journal],
    found: "Iterable[Checkpoint | Endpoint]",
) -> Spending | None:
    """The account from which requests are paid; None where no base answers elsewhere.

    Args:
        out: The run folder.
        max_usd: Of the whole run, machine and requests; None without limit.
        prices: Of both.
        told: The run's clock, from which what is paid takes time, and who hears of models without a price.
        found: All bases.
    """
    clock, journal = told
    elsewhere = [base for base in found if not base.is_here]
    if not elsewhere:
        return None

    spending = Spending(out / FILE_NAME, prices.models, clock)
    if max_usd is not None:
        usd_per_s = prices.prices.machine(1.0)
        clock.purse = Purse(max_usd=max_usd, usd_per_s=usd_per_s, paid_usd=lambda: spending.usd)
    for base in elsewhere:
        base.charge(spending)
        if base.model not in prices.models:
            journal.note(f"No price is known of {base.model}: it counts as the dearest. Give it in --prices.")
    return spending


def check_priced(models: Sequence[str], max_usd: float | None, prices: PriceList) -> None:
    """Refuses a limit of the cost that cannot be kept.

    Raises:
        ConfigError: For each model of which no price is known.
    """
    names = [name for name in map(remote_model, models) if name is not None and name not in prices.models]
    if names and max_usd is not None:
        raise ConfigError(
            [
                f"`max_cost` cannot be kept: no price is known of {name}. Give one in --prices under `models`, or use "
                "--budget."
                for name in names
            ]
        )
