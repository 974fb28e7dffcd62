"""Templates that show columns of the data: loaded, asked, demonstrated, demanded of new rows."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tunewright as tw
from tests import tiny
from tests.cli.test_bad_input import refused
from tests.commands import Call, write_table
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Part, Template, Verbalizer
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import predict
from tunewright.backbones.masked import Masked
from tunewright.config import RunConfig
from tunewright.data.load import load_dataset
from tunewright.data.tables import read_table
from tunewright.errors import DataError
from tunewright.evaluation.named import find_metric
from tunewright.files import read_lines
from tunewright.methods.table import METHODS
from tunewright.prompts.template import parse
from tunewright.runtime import generator
from tunewright.serve.predictor import Predictor
from tunewright.serve.preview import preview
from tunewright.tuning.attempt import prepare
from tunewright.types import Example, Params

SOURCE = "One of {labels}.\nwe had {text} in {place} by {how}\nwas"
NAMES = ("text", "place", "how", "label")
PLACES, WAYS = ("old road", "new hotel", "one map"), ("train", "song")
LABELS = tuple(tiny.GROUPS)
WORDS = Verbalizer(phrases=(("food",), ("travel",), ("music",)), scale=1.0)


def cells(count: int) -> list[tuple[str, ...]]:
    rows = enumerate(tiny.examples(count))
    return [(row.text, PLACES[k % 3], WAYS[k % 2], str(row.label)) for k, row in rows]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("columns") / "trips.csv", NAMES, cells(60))


@pytest.fixture(scope="module")
def run(data: Path, tiny_folder: Callable[[str], Path]) -> tw.Run:
    prompt = data.parent / "prompt.txt"
    prompt.write_text(SOURCE, encoding="utf-8")
    methods = ("majority", "template", "prompt-search", "linear-probe")
    model, out = str(tiny_folder("llama")), str(data.parent / "run")
    return tw.compare(data, methods=methods, model=model, template=str(prompt), trials=1, seeds=1, folds=1, out=out)


def by_hand(row: Example) -> str:
    return f"we had {row.text} in {row.fields['place']} by {row.fields['how']}\nwas"


def test_only_the_columns_of_the_template_are_loaded(data: Path) -> None:
    config = RunConfig(data=str(data))
    bare, shown = load_dataset(config), load_dataset(config, SOURCE)
    assert (bare.further, shown.further) == (("place", "how"), ("place", "how"))
    dev = str(write_table(data.parent / "dev.csv", NAMES, cells(12)))
    given = load_dataset(RunConfig(data=str(data), dev=dev, test=str(data), slice=("how=train",)), "{place}").splits
    found = [set(rows[0].fields) for rows in (given.train, given.dev, given.test)]
    assert found == [{"place"}, {"place"}, {"place", "how"}]
    rows = dict(enumerate(cells(60), 1))
    records = []
    for split in ("train", "dev", "test"):
        for row in getattr(shown.splits, split):
            number = int(row.id.split(":")[1])
            assert (row.text, row.fields["place"], row.fields["how"], row.label) == rows[number]
            records.append(json.dumps((split, row.id, row.text, None, row.label, *rows[number][1:3])))
    assert hashlib.sha256("".join(f"{line}\n" for line in records).encode()).hexdigest() == shown.sha256 != bare.sha256


def test_inputs_differ_by_columns(tmp_path: Path) -> None:
    """Two rows of one text are one input, unless the template shows a column in which they differ."""
    rows = [(f"good soup {k // 2}", PLACES[k % 2], f"so {k}") for k in range(24)]
    config = RunConfig(data=str(write_table(tmp_path / "t.csv", ("input", "place", "target"), rows)), task="generate")
    bare, shown = load_dataset(config).splits.test, load_dataset(config, "{place}").splits.test
    assert {len(row.references) for row in bare} == {2}
    assert {len(row.references) for row in shown} == {1}
    assert len(shown) == 2 * len(bare)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "masked-bert"])
def test_a_row_is_what_one_would_write_by_hand(kind: str, tiny_folder: Callable[[str], Path]) -> None:
    """Tokens, and with room for all of it the answers, are those of texts that were filled in by hand."""
    base: Backbone = tiny.masked(tiny_folder(kind)) if "masked" in kind else tiny.decoder(tiny_folder(kind))
    end = " [MASK]." if isinstance(base, Masked) else ""
    row = "we had {text} in {place} by {how}\nwas"
    rows = rows_of(8)
    texts = [replace(each, text=by_hand(each), fields={}) for each in rows]
    parts: list[dict[str, Part]] = [{"verbalizer": WORDS}]
    if isinstance(base, Decoder):
        parts.append({"decoding": Decoding(max_new_tokens=5)})
    for own in parts:
        labels = LABELS if "verbalizer" in own else ()
        made = Adapter(base=base.identity, labels=labels, max_tokens=60, **own)  # type: ignore[arg-type]
        shown = replace(made, template=Template(fixed="", row=f"{row}{end}", columns=("place", "how")))
        plain = replace(made, template=Template(fixed="", row=f"{{text}}{end}"))
        assert [e.ids for e in base.encode_for(rows, shown)] == [e.ids for e in base.encode_for(texts, plain)]
        assert Predictor(shown, base).predict(rows) == Predictor(plain, base).predict(texts)


def rows_of(count: int) -> list[Example]:
    return [
        Example(id=f"{k}", text=text, fields={"place": place, "how": how})
        for k, (text, place, how, _) in enumerate(cells(count))
    ]


def test_the_longest_of_the_columns_is_cut(tiny_decoder: Callable[[str], Decoder]) -> None:
    base = tiny_decoder("llama")
    template = Template(fixed="", row="we had {text} in {place} was", columns=("place",))
    adapter = Adapter(base=base.identity, labels=LABELS, max_tokens=64, template=template, verbalizer=WORDS)
    long = Example(id="a", text="good soup", fields={"place": "old road " * 60})
    (cut,) = base.encode_for([long], adapter)
    said = "".join(base.words(cut.ids))
    assert cut.num_cut > 0
    assert "good soup in old road" in said.replace("▁", " ")
    assert said.endswith("was")


@pytest.mark.parametrize("choice", ["random", "bm25", "nearest"])
def test_demonstrations_show_the_columns(tmp_path: Path, choice: str, tiny_decoder: Callable[[str], Decoder]) -> None:
    rows = [("abcdef"[k % 6] + "tuvwx"[k % 5], "soi"[k % 2], "abc"[k % 3]) for k in range(30)]
    data, base = write_table(tmp_path / "short.csv", ("text", "place", "label"), rows), tiny_decoder("llama")
    dataset = load_dataset(RunConfig(data=str(data)), "{place}")
    prompt = parse("{text} {place} was", dataset.task, dataset.columns, dataset.further)
    train = dataset.splits.train
    shop = prepare(dataset.task, base, train, train[:1], find_metric("accuracy", "classify"), 64, prompt=prompt)
    params: Params = {"template": "yours", "shots": 2, "choice": choice, "calibration": "contextual"}
    adapter = METHODS["few-shot"].place(shop.material, params, generator("x"))
    assert adapter.template is not None
    assert adapter.template.columns == ("place",)
    by_hand = [f"{row.text} {row.fields['place']} was {row.label}\n\n" for row in train]
    if adapter.retriever is None:
        assert adapter.template.fixed in {one + two for one in by_hand for two in by_hand} | set(by_hand)
    else:
        assert list(adapter.retriever.shown) == by_hand
    said = [Example(id=text, text=text, fields={"place": text}) for text in ("N/A", "", "[MASK]")]
    bare = replace(adapter, calibration=None)
    said_KC = predict(bare, base.encode_for(said, bare), shop.material.store)
    assert adapter.calibration is not None
    torch.testing.assert_close(adapter.calibration.bias_C, -said_KC.softmax(-1).mean(0).log())


def test_every_method_asks_with_the_columns(run: tw.Run) -> None:
    """The shipped adapters say what they need, and answer as they did in the run; rows without it are refused."""
    own = run["template"].adapter
    assert own.template == Template(
        fixed="One of food, music, travel.\n", row="we had {text} in {place} by {how}\nwas", columns=("place", "how")
    )
    assert run["linear-probe"].adapter.columns == ()
    stored = read_lines(run.folder / "test.jsonl")
    assert all(set(row["fields"]) == {"place", "how"} for row in stored)
    rows = [Example(id=row["id"], text=row["text"], fields=row["fields"]) for row in stored]
    answers = {each["id"]: each["label"] for each in read_lines(run.folder / "predictions/template/seed-0.jsonl")}
    assert {p.id: p.label for p in run["template"].predict(rows)} == answers
    with pytest.raises(DataError, match="comes without `place`, `how`, which the template shows"):
        run["template"].predict(["good soup"])


def test_files_need_the_columns(run: tw.Run, data: Path, call: Call, tmp_path: Path) -> None:
    folder = run.adapter_folder("template")
    done = call("predict", folder, data, "--out", tmp_path / "out.csv")
    assert done.code == 0, done.err
    rows = rows_of(60)
    said = [row["predicted"] for row in read_table(str(tmp_path / "out.csv")).rows]
    assert said == [p.label for p in run["template"].predict(rows)]
    assert "accuracy" in call("evaluate", folder, data).out
    few = write_table(tmp_path / "few.csv", ("text", "plac", "how", "label"), cells(60))
    for verb in ("predict", "evaluate"):
        told = refused(call, verb, folder, few, where=tmp_path)
        assert "unknown column 'place'. Did you mean 'plac'?" in told
        assert "The template shows it: each file needs it." in told
    prompt = run.folder.parent / "prompt.txt"
    told = refused(call, "compare", data, "--test", few, "--template", prompt, where=tmp_path)
    assert "unknown column 'place'" in told


def test_try(data: Path, tiny_folder: Callable[[str], Path], call: Call, tmp_path: Path) -> None:
    model = str(tiny_folder("llama"))
    found = preview("{how}: {text} was", RunConfig(data=str(data), model=(model,)), 3)
    train = load_dataset(RunConfig(data=str(data)), SOURCE).splits.train
    base = tiny.decoder(tiny_folder("llama"))
    texts = [f"{row.fields['how']}: {row.text} was" for row in train[:3]]
    assert [row.tokens[1:] for row in found.rows] == [tuple(base.words(base.token_ids(text))) for text in texts]
    told = refused(call, "try", "{text} in {plcae} is {label}", data, "--model", model, where=tmp_path)
    assert "unknown placeholder '{plcae}'. Did you mean '{place}'?" in told
    assert "placeholder '{label}' stands for the answer" in told
