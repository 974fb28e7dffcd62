"""Several prompts that answer together: the mean of what each says, and the vote of what each writes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.methods.test_prompting import WRITE, material, train_and_held_out
from tunewright.adapters import folder
from tunewright.adapters.members import Member, Members
from tunewright.adapters.parts import Template
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, answer, predict
from tunewright.errors import AdapterError
from tunewright.methods import prompt_ensemble, prompt_search
from tunewright.runtime import generator

GetDecoder = Callable[[str], Decoder]


def test_probabilities_are_averaged(tiny_decoder: GetDecoder, tmp_path: Path) -> None:
    """Against each member alone, as an adapter of its own; the disk keeps their zero points."""
    base = tiny_decoder("llama")
    made = material(base, tiny.task())
    adapter = prompt_ensemble.place(made, {"members": 3, "pool": 8}, generator("x"))
    found = prompt_search.best(made, 8, generator("x"), 3)
    assert adapter.members is not None
    assert len({str(m.settings()) for m in (Members(members=(each,)) for each in adapter.members.members)}) == 3
    rows = train_and_held_out()[1][:6]
    shares = [
        predict(each, base.encode_for(rows, each), FeatureStore(base)).double().softmax(-1)
        for each in (contender.adapter(made) for contender in found)
    ]
    folder.save(adapter, tmp_path / "a")
    loaded = folder.load(tmp_path / "a")
    base.check(loaded)
    assert loaded.sha256() == adapter.sha256()
    for one in (adapter, loaded):
        given = [p.probabilities for p in answer(one, rows, FeatureStore(base))]
        torch.testing.assert_close(torch.tensor(given).double(), torch.stack(shares).mean(0), atol=1e-5, rtol=0)
    assert (torch.stack(shares)[0] - torch.stack(shares).mean(0)).abs().max() > 1e-3


def test_texts_vote(tiny_decoder: GetDecoder) -> None:
    base = tiny_decoder("gpt2")
    made = material(base, WRITE)
    adapter = prompt_ensemble.place(made, {"members": 3, "pool": 8}, generator("x"))
    rows, store = train_and_held_out()[1][:6], FeatureStore(base)
    alone = [[p.answer for p in answer(each, rows, store)] for each in adapter.each]
    for k, given in enumerate(answer(adapter, rows, store)):
        counts = Counter(" ".join(texts[k].split()) for texts in alone if texts[k].strip())
        most = [text for text, count in counts.items() if count == max(counts.values())]
        assert " ".join(given.answer.split()) == (most[0] if most else "")


def test_the_best_are_ranked_by_the_same_merit(tiny_decoder: GetDecoder) -> None:
    """With as many as are drawn there is one round: the order is that of the merits on all judges."""
    made = material(tiny_decoder("llama"), tiny.task())
    two = prompt_search.best(made, 2, generator("y"), 2)
    order = generator("y").permutation(len(made.examples)).tolist()
    judges = made.part(order[: len(order) // 2])
    merits = [prompt_search.merit(each, judges) for each in two]
    assert merits == sorted(merits, reverse=True)
    assert prompt_search.best(made, 8, generator("y"), 1)[0] == prompt_search.search(made, 8, generator("y"))


def test_who_has_no_prompts_is_refused(tiny_backbone: Callable[[str], object]) -> None:
    base = tiny_backbone("bert")
    assert "answers no prompts" in str(prompt_ensemble.METHOD.refuses(base))  # type: ignore[arg-type]
    members = Members(members=(Member(template=Template(fixed="", row="{text}")),))
    with pytest.raises(AdapterError, match="several prompts"):
        base.check(replace(tiny.adapter(base), members=members))  # type: ignore[attr-defined, arg-type]
