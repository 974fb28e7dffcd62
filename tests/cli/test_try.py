"""`tunewright try`: what is shown is what the model gets, and what it answers is what it answers elsewhere."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cli.test_bad_input import refused
from tests.commands import Call, write_meanings, write_topics
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.backbones.base import Row
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.backbones.masked import Masked
from tunewright.config import RunConfig
from tunewright.data.load import load_dataset
from tunewright.methods.base import Material
from tunewright.methods.prompting import asking
from tunewright.prompts.template import parse
from tunewright.serve.preview import preview
from tunewright.tuning.attempt import label_rows

SOURCE = "One of {labels}.\nit: {text}\nwas"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_topics(tmp_path / "topics.csv", 48)


def test_tokens_and_scores(
    data: Path, tiny_folder: Callable[[str], Path], tiny_decoder: Callable[[str], Decoder]
) -> None:
    """The tokens are the pass's; the scores are log-probabilities whose softmax is the candidate's."""
    base, config = tiny_decoder("llama"), RunConfig(data=str(data), model=(str(tiny_folder("llama")),))
    found, dataset = preview(SOURCE, config, 3), load_dataset(config)
    prompt, train = parse(SOURCE, dataset.task), dataset.splits.train
    rows = label_rows(dataset.task, base, train, 64)
    material = Material(
        task=dataset.task, backbone=base, store=FeatureStore(base), examples=train, rows=rows, max_tokens=64
    )
    adapter = material.adapter(**asking(material, prompt))
    assert found.fixed == tuple(base.words(base.fixed_ids(prompt.fixed)))
    encodings = base.encode_for(train[:3], adapter)
    expected_NC = predict(adapter, encodings, material.store).softmax(-1)
    for row, encoding, example, expected_C in zip(found.rows, encodings, train, expected_NC, strict=False):
        assert (row.id, row.wanted, row.num_cut) == (example.id, example.label, 0)
        assert row.tokens == tuple(base.words(encoding.ids))
        scores = dict(row.scores)
        own_C = torch.tensor([scores[label] for label in dataset.task.labels])
        assert (own_C < 0).all()
        torch.testing.assert_close(own_C.softmax(-1), expected_C, atol=2e-2, rtol=0)
        assert row.answer == row.scores[0][0] == max(scores, key=lambda label: scores[label])


def test_texts_are_what_is_generated(
    tmp_path: Path, tiny_folder: Callable[[str], Path], tiny_decoder: Callable[[str], Decoder]
) -> None:
    data, base = write_meanings(tmp_path / "pubs.csv"), tiny_decoder("gpt2")
    files = {"data": str(data), "input": "mr", "target": "ref", "model": (str(tiny_folder("gpt2")),)}
    config = RunConfig(**files, task="generate", max_tokens=20)
    found, train = preview("{mr}\n", config, 2), load_dataset(config).splits.train
    alone = Adapter(base=base.identity, labels=(), max_tokens=20, template=Template(fixed="", row="{text}\n"))
    encodings = base.encode_for(train[:2], alone)
    written = base.generate([Row(encoding=e, adapter=alone) for e in encodings])
    assert found.fixed == ()
    for row, encoding, example, text in zip(found.rows, encodings, train, written, strict=False):
        assert (row.tokens, row.num_cut) == (tuple(base.words(encoding.ids)), encoding.num_cut)
        assert (row.wanted, row.scores) == (example.target, ())
        assert row.num_cut > 0
        assert row.answer
        assert text.text.strip().startswith(row.answer.split("\n")[0])


def test_the_page(data: Path, tiny_folder: Callable[[str], Path], call: Call, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(SOURCE, encoding="utf-8")
    model = tiny_folder("llama")
    pages = [call("try", given, data, "--model", model, "--rows", "2").out for given in (SOURCE, prompt)]
    assert pages[0] == pages[1]
    lines = pages[0].splitlines()
    assert lines[0] == f"model   {model}, context of 64 tokens"
    assert re.fullmatch(r"fixed   \d+ tokens, the same for every row; they run once", lines[1])
    assert sum(line.startswith("answer  ") for line in lines) == 2
    assert sum(line.startswith("topics:") for line in lines) == 2
    assert r"\n" in pages[0]


def test_what_is_refused(data: Path, tiny_folder: Callable[[str], Path], call: Call, tmp_path: Path) -> None:
    llama, bert = tiny_folder("llama"), tiny_folder("bert")
    said = refused(call, "try", "{review}", data, "--model", llama, where=tmp_path)
    assert "unknown placeholder '{review}'. Allowed: {text}, {labels}." in said
    assert "Write {text}." in said
    assert "answers no prompts: there is nobody to ask" in refused(
        call, "try", "{text}", data, "--model", bert, where=tmp_path
    )
    assert "`rows` must be at least 1" in refused(call, "try", "{text}", data, "--rows", "0", where=tmp_path)
    long = "so " * 80 + "{text}"
    assert "leaves no room" in refused(call, "try", long, data, "--model", llama, where=tmp_path)
    for source, words in (("{review}", "unknown placeholder '{review}'"), ("Say:", "no place for a row's text")):
        prompt = tmp_path / "bad.txt"
        prompt.write_text(source, encoding="utf-8")
        assert words in refused(call, "compare", data, "--template", prompt, "--model", llama, where=tmp_path)
    missing = tmp_path / "none.txt"
    assert "cannot read the template" in refused(
        call, "compare", data, "--template", missing, "--model", llama, where=tmp_path
    )


def test_a_masked_model(
    data: Path, tiny_folder: Callable[[str], Path], tiny_masked: Callable[[str], Masked], call: Call, tmp_path: Path
) -> None:
    """All of the prompt runs with each row; the scores are those of the words in the place of the mask."""
    base, model = tiny_masked("masked-bert"), tiny_folder("masked-bert")
    config = RunConfig(data=str(data), model=(str(model),))
    found, dataset = preview("we had\n{text} was [MASK]", config, 3), load_dataset(config)
    assert found.fixed == ()
    for row, example in zip(found.rows, dataset.splits.train, strict=False):
        assert row.tokens[:3] == ("[CLS]", "we", "had")
        assert row.tokens[-3:] == ("was", "[MASK]", "[SEP]")
        assert row.wanted == example.label
        adapter = Adapter(
            base=base.identity,
            labels=dataset.task.labels,
            max_tokens=64,
            template=Template(fixed="we had\n", row="{text} was [MASK]"),
            verbalizer=Verbalizer(phrases=tuple((label,) for label in dataset.task.labels), scale=1.0),
        )
        (asked,) = [Row(encoding=e, adapter=adapter) for e in base.encode_for([example], adapter)]
        scores_C = base.scores([asked], base.phrase_ids(adapter))[0]
        own = dict(row.scores)
        torch.testing.assert_close(
            torch.tensor([own[label] for label in dataset.task.labels]), scores_C, atol=2e-2, rtol=2e-2
        )
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{text} was", encoding="utf-8")
    for verb in (("try", prompt, data), ("compare", data, "--methods", "template", "--template", prompt)):
        said = refused(call, *verb, "--model", model, where=tmp_path)
        assert "must have one [MASK], where the answer stands. Got 0." in said
    llama = tiny_folder("llama")
    said = refused(call, "try", "[MASK] {text}", data, "--model", llama, where=tmp_path)
    assert "no words may follow [MASK]" in said
