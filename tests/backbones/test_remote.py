"""Rows as requests: what is drawn, what is reasoned, and what a template shows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.vendor import KEY, Vendor, guess, prompt_of, selling
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Reasoning, Template, Verbalizer
from tunewright.backbones.base import Row, row_generator
from tunewright.backbones.endpoint import Endpoint, Patience
from tunewright.backbones.remote import Remote
from tunewright.backbones.replies import Cache
from tunewright.types import Example

LABELS = ("food", "travel", "music")
CUE = "The answer is"
EXAMPLES = [Example(id=str(k), text=f"number {k}") for k in range(8)]


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with selling(Vendor(table=lambda prompt: guess(prompt, LABELS))) as found:
        yield found


@pytest.fixture
def base(vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    endpoint = Endpoint(f"openai:big@{vendor.url}", cache=Cache(tmp_path / "a.sqlite"), patience=Patience(retries=1))
    return Remote(endpoint.connect())


def writing(base: Remote, **decoding: object) -> Adapter:
    template = Template(fixed="", row="Text: {text}\n")
    how = replace(Decoding(max_new_tokens=6), **decoding)  # type: ignore[arg-type]
    return Adapter(base=base.identity, labels=LABELS, max_tokens=99, template=template, decoding=how)


def rows_of(base: Remote, adapter: Adapter) -> list[Row]:
    return [Row(encoding=encoding, adapter=adapter) for encoding in base.encode_for(EXAMPLES, adapter)]


def test_seeds_of_draws_are_those_that_endpoints_take(base: Remote, vendor: Vendor) -> None:
    """Half of torch's are beyond 64 signed bits, which are refused."""
    rows = rows_of(base, writing(base, temperature=0.7))
    draws = [row_generator(row.encoding) for row in rows]
    assert any(draw.initial_seed() >= 2**63 for draw in draws)
    found = base.generate(rows, draws)
    assert [each.text in LABELS for each in found] == [True] * len(rows)
    sent = {prompt_of(body): body["seed"] for body in vendor.asked if "seed" in body}
    assert len(set(sent.values())) == len(rows)
    again = base.generate(rows, [torch.Generator().manual_seed(draw.initial_seed()) for draw in draws])
    assert found == again


def test_a_label_stands_behind_the_whole_reasoning(base: Remote, vendor: Vendor) -> None:
    """Six tokens of the endpoint are more of the pieces in which room is counted here."""
    thought = "considering everything carefully nobody disagrees whatsoever"
    vendor.table = lambda prompt: guess(prompt, LABELS) if CUE in prompt else {thought: 0.9}
    words = Verbalizer(phrases=tuple((label,) for label in LABELS), scale=1.0)
    adapter = replace(writing(base), verbalizer=words, reasoning=Reasoning(cue=CUE))
    rows = rows_of(base, adapter)
    base.readings(rows)
    asked = {prompt_of(body) for body in vendor.asked}
    assert asked >= {f"Text: {each.text}\n{thought} {CUE}" for each in EXAMPLES}


@pytest.mark.parametrize("drops", [None, "seed", "stop", "top_p"])
def test_settings_that_are_refused_are_left_out(drops: str | None, base: Remote, vendor: Vendor) -> None:
    """Answers end at a stop all the same, and each draw is asked for by itself."""
    vendor.drops, vendor.table = drops, lambda _: {"very well stop this": 0.9}
    rows = rows_of(base, writing(base, temperature=0.7, top_p=0.9, stop=("a", "b", "c", "d", " stop")))[:1] * 3
    found = base.generate(rows, [torch.Generator().manual_seed(k) for k in range(3)])
    assert [each.text for each in found] == ["very well"] * 3
    asked = vendor.asked[1:]
    assert [set(body) & {"seed", "stop", "top_p"} for body in asked] == [{"seed", "stop", "top_p"} - {drops}] * 3
    assert all(len(body.get("stop", ())) <= 4 for body in asked)
    base.generate(rows_of(base, writing(base, temperature=0.7))[:1], [torch.Generator().manual_seed(0)])
    assert "top_p" not in vendor.asked[-1]
