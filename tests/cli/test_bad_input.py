"""Every mistake of the user's: lines that say what, got, allowed and what to do, exit code 2, nothing left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands import Call, files_in, write_table, write_topics, write_yaml
from tunewright.api import Run

GOOD = "text,label\n" + "".join(f"bread number {k},food\nthe train {k} left,travel\n" for k in range(20))


def refused(call: Call, *arguments: str | Path, where: Path) -> str:
    """What the call says; makes sure that it is an error of the user's that leaves no file."""
    before = files_in(where)
    done = call(*arguments)
    assert done.code == 2, done
    assert "Traceback" not in done.err
    assert done.out == ""
    assert files_in(where) == before
    lines = done.err.splitlines()
    assert lines
    assert all(line.startswith("tunewright: ") for line in lines), done.err
    return done.err


TABLES: dict[str, tuple[str, bytes, list[str], list[str]]] = {
    # name: (file, content, further arguments, phrases of the message)
    "empty": ("d.csv", b"", [], ["d.csv is empty", "header and rows", "Check the export"]),
    "only a header": ("d.csv", b"text,label\n", [], ["no data rows", "only text, label", "Add rows"]),
    "no header": (
        "d.csv",
        b"good soup,food\nold bread,food\n" * 9,
        [],
        ["has no header", "'good soup'", "also a value of that column", "Add a line such as `text,label`"],
    ),
    "unknown column": (
        "d.csv",
        GOOD.encode(),
        ["--text", "txet"],
        ["unknown column 'txet'", "Did you mean 'text'?", "Allowed: text, label", "--text"],
    ),
    "unknown label column": (
        "d.csv",
        GOOD.encode(),
        ["--label", "lable"],
        ["unknown column 'lable'", "Did you mean 'label'?", "--label"],
    ),
    "ambiguous text": (
        "d.csv",
        b"sentence,message,label\n" + b"a b,c d,x\ne f,g h,y\n" * 9,
        [],
        ["ambiguous text column", "Got 2 candidates: 'sentence', 'message'", "Choose one with --text"],
    ),
    "ambiguous label": (
        "d.csv",
        b"text,intent,topic\n" + b"a b,c,x\ne f,g,y\n" * 9,
        [],
        ["ambiguous label column", "'intent', 'topic'", "Choose one with --label"],
    ),
    "one column for two roles": (
        "d.csv",
        GOOD.encode(),
        ["--text", "text", "--label", "text"],
        ["one column for two roles", "text = 'text', label = 'text'", "Change a flag"],
    ),
    "empty texts": (
        "d.csv",
        GOOD.encode() + b",food\n  ,travel\n",
        [],
        ["missing texts in column 'text'", "2 of 42 rows", "(row 41, 42)", "Fill or remove these rows"],
    ),
    "missing texts": (
        "d.jsonl",
        b'{"text": "good soup", "label": "food"}\n{"label": "food"}\n{"text": null, "label": "travel"}\n',
        [],
        ["missing texts in column 'text'", "2 of 3 rows", "(row 2, 3)"],
    ),
    "missing labels": (
        "d.csv",
        GOOD.encode() + b"old soup,\n",
        [],
        ["missing labels in column 'label'", "1 of 41 rows", "(row 41)", "Fill or remove"],
    ),
    "NaN labels": (
        "d.csv",
        GOOD.encode() + b"old soup,nan\nnew soup,NaN\n",
        [],
        ["missing labels in column 'label'", "2 of 42 rows", "(row 41, 42)"],
    ),
    "float labels": (
        "d.csv",
        b"text,label\ngood,4.5\nbad,1.5\nfair,3\n",
        [],
        ["labels are floats, such as 4.5", "Allowed: class names or integers", "--label"],
    ),
    "too many integers": (
        "d.csv",
        b"text,label\n" + b"".join(b"word %d,%d\n" % (k, k) for k in range(101)),
        [],
        ["101 distinct integers as labels", "at most 100", "Group them"],
    ),
    "one class": (
        "d.csv",
        b"text,label\ngood soup,food\nold bread,food\n",
        [],
        ["only one class in the training rows: 'food'", "At least two are needed", "Add rows of another class"],
    ),
    "a scarce class": (
        "d.csv",
        GOOD.encode() + b"a song,music\nold song for choir,music\n",
        [],
        ["class 'music' has 2 rows", "need 3, one each for train, dev, test", "--dev and --test"],
    ),
    "a class of twins": (
        "d.csv",
        GOOD.encode() + b"the old song,music\n" * 5,
        [],
        ["class 'music' has 5 rows but only 1 different text", "need 3"],
    ),
    "not UTF-8": (
        "d.csv",
        GOOD.encode() + "caf\u00e9,food\n".encode("latin-1"),
        [],
        ["d.csv is not UTF-8", f"byte {len(GOOD) + 3} is 0xe9", "iconv"],
    ),
    "UTF-16": ("d.csv", GOOD.encode("utf-16"), [], ["not UTF-8", "UTF-16", "Save it as UTF-8"]),
    "ragged": (
        "d.csv",
        GOOD.encode() + b"soup, with salt,food\n",
        [],
        ["d.csv, line 42: got 3 cells, want 2", "Quote cells"],
    ),
    "not JSON": ("d.jsonl", b'{"text": "a"\n', [], ["line 1: not JSON", "one JSON object a line"]),
    "a huge cell": (
        "d.csv",
        GOOD.encode() + b"x" * 10_000_000 + b",food\n",
        [],
        ["row 41, column 'text'", "a cell of 10000000 characters", "at most 1000000", "Shorten or remove it"],
    ),
    "no parquet": ("d.parquet", GOOD.encode(), [], ["d.parquet is not a parquet file", "name it by its format"]),
    "unknown ending": ("d.xlsx", b"PK", [], ["got suffix '.xlsx'", ".csv, .tsv, .jsonl, .parquet", "Convert it first"]),
    "too few rows for the classes": (
        "d.csv",
        GOOD.encode(),
        ["--rows", "1"],
        ["`rows` leaves a single class", "Got 1", "Allowed: 2"],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, call: Call, tmp_path: Path) -> None:
    file, content, further, phrases = TABLES[name]
    (tmp_path / file).write_bytes(content)
    said = refused(call, "compare", tmp_path / file, "--out", tmp_path / "run", *further, where=tmp_path)
    assert len(said.splitlines()) == 1
    assert len(said) < 600
    for phrase in phrases:
        assert phrase in said


def test_missing_file(call: Call, tmp_path: Path) -> None:
    write_topics(tmp_path / "tickets.csv")
    said = refused(call, "compare", tmp_path / "tickts.csv", "--out", tmp_path / "run", where=tmp_path)
    assert f"no such file: {tmp_path}/tickts.csv" in said
    assert f"Did you mean {tmp_path}/tickets.csv?" in said


@pytest.mark.parametrize("flag", ["--dev", "--test"])
def test_missing_split(flag: str, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    said = refused(call, "compare", data, flag, tmp_path / "no.csv", "--out", tmp_path / "run", where=tmp_path)
    assert f"no such file: {tmp_path}/no.csv" in said


def test_split_without_the_columns(call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    other = write_table(tmp_path / "t.csv", ("text", "kind"), [("soup", "food")])
    said = refused(call, "compare", data, "--test", other, "--out", tmp_path / "run", where=tmp_path)
    assert "t.csv: unknown column 'label'" in said
    assert "Allowed: text, kind" in said


def test_descriptions_that_do_not_fit(call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    words = write_yaml(tmp_path / "d.yaml", {"food": "what one eats", "musik": "songs"})
    said = refused(call, "compare", data, "--descriptions", words, "--out", tmp_path / "run", where=tmp_path)
    assert "unknown label 'musik'. Did you mean 'music'?" in said
    assert "no description of music, travel" in said


SLICES: dict[str, tuple[list[str], list[str]]] = {
    # name: (--slice, a phrase for each line)
    "unknown column": (
        ["lagn"],
        ["unknown column 'lagn'. Did you mean 'lang'? Allowed: text, label, lang. Name it with"],
    ),
    "no rule": (["len>"], ["`slice` must be a column, or a rule such as len>200, amount<=9.5 or lang=de. Got 'len>'."]),
    "twice": (["lang", "lang"], ["`slice` names 'lang' twice. Name each once."]),
    "no numbers": (["lang>3"], ["`slice` 'lang>3' needs numbers in 'lang'. Got 'de'."]),
    "all rows": (["len>0"], ["'len>0' does not tell the 18 test rows apart: it holds for 18 of 18", "another rule"]),
    "no row": (["lang=fr"], ["'lang=fr' does not tell the 18 test rows apart: it holds for 0 of 18"]),
    "one for each row": (
        ["text"],
        ["'text' does not tell the 18 test rows apart: they have 18 values, none of them in 10"],
    ),
    "several": (["m>1", "lnag"], ["unknown column 'm'", "unknown column 'lnag'. Did you mean 'lang'?"]),
}


@pytest.mark.parametrize("name", SLICES)
def test_slices(name: str, call: Call, tmp_path: Path) -> None:
    given, phrases = SLICES[name]
    rows = [(f"{['bread', 'soup', 'cheese'][k % 3]} of {k} trains", "food" if k % 2 else "no", "de") for k in range(90)]
    data = write_table(tmp_path / "d.csv", ("text", "label", "lang"), rows)
    flags = [flag for rule in given for flag in ("--slice", rule)]
    said = refused(call, "compare", data, "--folds", "1", "--out", tmp_path / "run", *flags, where=tmp_path)
    assert all(phrase in said for phrase in phrases), said
    assert len(said.splitlines()) == (2 if name == "several" else 1)


FILES: dict[str, tuple[str, str, list[str]]] = {
    "no pairs": (
        "--swap",
        "he: she\n",
        ["must hold pairs of terms, one a line, such as `- [he, she]`. Got {'he': 'she'}."],
    ),
    "a pair of one": ("--swap", "- [he]\n", ["a pair must be two different terms", "Got ['he']."]),
    "no YAML": ("--swap", "- [he\n", ["as YAML"]),
    "an unknown true label": ("--error-costs", "fod: {music: 2}\n", ["unknown label 'fod'. Did you mean 'food'?"]),
    "an unknown answer": ("--error-costs", "food: {musik: 2}\n", ["unknown answer 'musik'. Did you mean 'music'?"]),
    "a cost that is none": ("--error-costs", "food: {music: -2}\n", ["must be a number from 0 on. Got '-2'."]),
    "no answers": ("--error-costs", "food: 2\n", ["'food' must hold `answer: cost` lines. Got '2'."]),
    "all the same": (
        "--error-costs",
        "food: {music: 1}\n",
        ["makes all errors cost the same", "leave --error-costs out"],
    ),
    "no costs": ("--error-costs", "- food\n", ["must hold `key: value` lines"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, call: Call, tmp_path: Path) -> None:
    flag, content, phrases = FILES[name]
    (tmp_path / "f.yaml").write_text(content, encoding="utf-8")
    data = write_topics(tmp_path / "d.csv")
    given: list[str | Path] = ["compare", data, flag, tmp_path / "f.yaml", "--out", tmp_path / "run"]
    said = refused(call, *given, where=tmp_path)
    assert len(said.splitlines()) == 1
    assert f"{tmp_path}/f.yaml" in said
    assert all(phrase in said for phrase in phrases), said
    (tmp_path / "f.yaml").unlink()
    assert f"no such file: {tmp_path}/f.yaml" in refused(call, *given, where=tmp_path)


def test_files_and_settings_at_once(call: Call, tmp_path: Path) -> None:
    """Every fault that can be told without the rows, whichever settings it is in."""
    data, gone = write_topics(tmp_path / "d.csv"), tmp_path / "gone"
    said = refused(
        call, "compare", data, "--swap", gone / "s.yaml", "--descriptions", gone / "d.yaml", "--error-costs",
        gone / "e.yaml", "--prices", gone / "p.yaml", "--require", "qualty>=.9", "--slice", "len>", "--metric", "bleu",
        where=tmp_path,
    ).splitlines()  # fmt: skip
    assert len(said) == 7
    for phrase in ("s.yaml", "d.yaml", "e.yaml", "p.yaml", "'qualty'", "'len>'", "unknown metric 'bleu'"):
        assert sum(phrase in line for line in said) == 1, phrase


SETTINGS: dict[str, tuple[list[str], list[str]]] = {
    "unknown method": (
        ["--methods", "lora,soft-promt"],
        [
            "unknown method 'soft-promt'",
            "Did you mean 'soft-prompt'?",
            "majority, copy-input, nearest-target",
            "lora",
        ],
    ),
    "no method": (["--methods", ","], ["`methods` must name at least one", "Got none"]),
    "unknown metric": (
        ["--metric", "acuracy"],
        ["unknown metric 'acuracy'", "Did you mean 'accuracy'?", "macro-f1"],
    ),
    "all metrics": (["--metric", "all"], ["unknown metric 'all'", "Allowed: accuracy, macro-f1"]),
    "no trials": (["--trials", "0"], ["`trials` must be greater than or equal to 1", "Got '0'"]),
    "negative trials": (["--trials", "-1"], ["`trials` must be greater than or equal to 1", "Got '-1'"]),
    "half a trial": (["--trials", "2.5"], ["`trials` must be a valid integer", "Got '2.5'"]),
    "no seeds": (["--seeds", "0"], ["`seeds` must be greater than or equal to 1", "Got '0'"]),
    "negative seeds": (["--seeds", "-3"], ["`seeds` must be greater than or equal to 1", "Got '-3'"]),
    "no budget": (["--budget", "0"], ["`budget` must be greater than 0", "such as 90s, 10m or 2h"]),
    "negative budget": (["--budget", "-5m"], ["`budget` must be greater than 0", "Got '-5m'"]),
    "a budget in weeks": (["--budget", "2w"], ["`budget` must be", "Got '2w'", "such as 90s, 10m or 2h"]),
    "no cost": (["--max-cost", "0"], ["`max_cost` must be greater than 0", "US dollars"]),
    "no requests": (["--requests-per-day", "0"], ["`requests_per_day` must be greater than 0", "Got '0'"]),
    "no months": (["--months", "-1"], ["`months` must be greater than 0", "Got '-1'"]),
    "an unknown requirement": (
        ["--require", "local,qualty>=0.9"],
        ["unknown requirement 'qualty'", "Did you mean 'quality'?", "latency_p95_ms"],
    ),
    "a requirement the wrong way round": (
        ["--require", "bytes>=5MB"],
        ["`require`: bytes needs <=", "Got 'bytes>=5MB'", "Write bytes<=5MB"],
    ),
    "no rows": (["--rows", "0"], ["`rows` must be greater than or equal to 1"]),
    "negative margin": (["--margin", "-1"], ["`margin` must be greater than or equal to 0"]),
    "few tokens": (["--max-tokens", "2"], ["`max_tokens` must be greater than or equal to 8"]),
    "negative seed": (["--seed", "-1"], ["`seed` must be greater than or equal to 0"]),
    "one base twice": (["--model", "a", "--model", "a"], ["names a base twice: a, a", "Name each once"]),
    "two bases of one name": (["--model", "a/base", "--model", "b/base"], ["a/base, b/base", "base", "Rename"]),
    "resume without a folder": (["--resume"], ["`resume` needs `out`", "run folder"]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    further, phrases = SETTINGS[name]
    monkeypatch.chdir(tmp_path)
    said = refused(call, "compare", write_topics(tmp_path / "d.csv"), *further, where=tmp_path)
    assert len(said.splitlines()) == 1
    for phrase in phrases:
        assert phrase in said


def test_no_data(call: Call, tmp_path: Path) -> None:
    said = refused(call, "compare", where=tmp_path)
    assert "`data` is missing" in said
    assert "csv, tsv, jsonl or parquet file" in said


def test_resume_without_a_folder_is_all_that_is_said(call: Call, tmp_path: Path) -> None:
    said = refused(call, "compare", "--resume", where=tmp_path)
    assert said == "tunewright: `resume` needs `out`, the run folder to go on with. Add --out FOLDER.\n"
    first, second = refused(call, "compare", "--resume", "--seeds", "0", where=tmp_path).splitlines()
    assert ("`resume` needs `out`" in first, "`seeds` must be" in second) == (True, True)


def test_all_faults_of_a_call_at_once(call: Call, tmp_path: Path) -> None:
    config = write_yaml(tmp_path / "run.yaml", {"trails": 3, "margin": "wide", "seeds": [1]})
    given: list[str | Path] = ["--config", config, "--trials", "0", "--budget", "soon"]
    said = refused(call, "compare", *given, where=tmp_path).splitlines()
    phrases = ["`budget`", "`data` is missing", "`margin`", "`seeds`", "`trials`", "unknown"]
    for line, phrase in zip(sorted(said), phrases, strict=True):
        assert phrase in line
    assert any("unknown setting 'trails'. Did you mean 'trials'?" in line for line in said)


def test_all_unknown_names_at_once(call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    given = ["--methods", "lara,ful", "--metric", "f1", "--model", "a", "--model", "a"]
    said = refused(call, "compare", data, *given, where=tmp_path).splitlines()
    phrases = ["unknown method 'lara'", "unknown method 'ful'", "unknown metric 'f1'", "names a base twice"]
    assert len(said) == len(phrases)
    for line, phrase in zip(said, phrases, strict=True):
        assert phrase in line


def test_prices_with_every_fault(call: Call, tmp_path: Path) -> None:
    data, prices = write_topics(tmp_path / "d.csv"), write_yaml(tmp_path / "p.yaml", {"usd_per_huor": 1, "months": -1})
    given: list[str | Path] = ["--prices", prices, "--require", "bytes=5", "--methods", "lara"]
    said = refused(call, "compare", data, *given, where=tmp_path).splitlines()
    near = "unknown price 'usd_per_huor'. Did you mean 'usd_per_hour'?"
    phrases = ["unknown method 'lara'", near, "`months`", "bytes"]
    assert len(said) == len(phrases)
    for line, phrase in zip(said, phrases, strict=True):
        assert phrase in line


def test_a_limit_of_the_cost_of_a_free_machine(call: Call, tmp_path: Path) -> None:
    data, prices = write_topics(tmp_path / "d.csv"), write_yaml(tmp_path / "p.yaml", {"usd_per_hour": 0})
    said = refused(call, "compare", data, "--prices", prices, "--max-cost", "5", where=tmp_path)
    assert "`max_cost` has no effect: `usd_per_hour` of the prices is 0." in said


def test_no_price_file(call: Call, tmp_path: Path) -> None:
    said = refused(call, "compare", write_topics(tmp_path / "d.csv"), "--prices", tmp_path / "p.yaml", where=tmp_path)
    assert f"no such file: {tmp_path}/p.yaml" in said


YAMLS: dict[str, tuple[str, list[str]]] = {
    "a typo": ("data: d.csv\nmetod: lora\n", ["unknown setting 'metod'", "Did you mean 'methods'?"]),
    "no mapping": ("- lora\n", ["must hold `key: value` lines", "Got list"]),
    "empty": ("", ["must hold `key: value` lines"]),
    "no YAML": ("data: [d.csv\n", ["as YAML", "Allowed: UTF-8 text"]),
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml(name: str, call: Call, tmp_path: Path) -> None:
    text, phrases = YAMLS[name]
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    said = refused(call, "compare", "--config", tmp_path / "run.yaml", where=tmp_path)
    for phrase in phrases:
        assert phrase in said


def test_missing_yaml(call: Call, tmp_path: Path) -> None:
    said = refused(call, "compare", "--config", tmp_path / "run.yaml", where=tmp_path)
    assert f"no such file: {tmp_path}/run.yaml" in said


@pytest.mark.parametrize("typed", ["compare d.csv --trails 3", "compair", "report", "predict x", "evaluate x"])
def test_wrong_usage(typed: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*typed.split())
    assert done.code == 2
    assert "Traceback" not in done.err
    assert "Usage:" in done.err
    assert files_in(tmp_path) == set()


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model_refused(call: Call, tmp_path: Path) -> Callable[[Path], str]:
    data = write_topics(tmp_path / "d.csv")
    return lambda model: refused(call, "compare", data, "--model", model, "--out", tmp_path / "run", where=tmp_path)


def test_no_model_there(model_refused: Callable[[Path], str], tmp_path: Path) -> None:
    said = model_refused(tmp_path / "absent")
    assert f"no model folder at {tmp_path}/absent" in said
    assert "Allowed: a folder with config.json, tokenizer.json and model.safetensors, or a name on the hub." in said


def test_folder_that_is_no_model(model_refused: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = model_refused(tmp_path / "empty")
    assert "is no model folder: it lacks config.json or model.safetensors" in said
    assert "Allowed: " in said


def test_model_of_the_wrong_kind(
    model_refused: Callable[[Path], str], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder("bert"), tmp_path / "vit")
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    said = model_refused(tmp_path / "vit")
    assert "is of type vit" in said
    assert "Allowed: bert, roberta" in said
    assert "Choose an encoder model" in said


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_broken_model_file(
    file: str, model_refused: Callable[[Path], str], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    content = (tmp_path / "base" / file).read_bytes()
    (tmp_path / "base" / file).write_bytes(content[: len(content) // 2])
    said = model_refused(tmp_path / "base")
    assert f"cannot load model '{tmp_path}/base'" in said
    assert "Allowed: a folder with config.json" in said


def test_model_whose_shape_cannot_be(
    model_refused: Callable[[Path], str], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = "three"
    (tmp_path / "base" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert f"cannot load model '{tmp_path}/base'" in model_refused(tmp_path / "base")


def test_model_without_tokenizer(
    model_refused: Callable[[Path], str], tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder("bert"), tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert "has no tokenizer" in model_refused(tmp_path / "base")


def test_model_that_cannot_be_reached(model_refused: Callable[[Path], str]) -> None:
    assert "cannot load model 'nobody/no-such-model'" in model_refused(Path("nobody/no-such-model"))


# --- the run folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tiny_folder: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """Arguments of a comparison that takes no time."""
    data = write_topics(tmp_path / "d.csv", 30)
    return [
        "compare",
        str(data),
        "--model",
        str(tiny_folder("bert")),
        "--methods",
        "majority",
        "--seeds",
        "1",
        "--folds",
        "1",
    ]


def test_output_folder_that_exists(call: Call, small: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep me", encoding="utf-8")
    said = refused(call, *small, "--out", tmp_path / "run", where=tmp_path)
    assert f"{tmp_path}/run exists and is no run folder: it is a folder that holds no run.yaml. Choose another" in said
    said = refused(call, *small, "--out", tmp_path / "run", "--resume", where=tmp_path)
    assert f"nothing to resume in {tmp_path}/run: it is a folder that holds no run.yaml. Choose another --out." in said
    assert (tmp_path / "run" / "mine.txt").read_text(encoding="utf-8") == "keep me"


def test_output_folder_that_is_a_file(call: Call, small: list[str], tmp_path: Path) -> None:
    said = refused(call, *small, "--out", tmp_path / "d.csv", where=tmp_path)
    assert "d.csv exists and is no run folder: it is a file. Choose another --out." in said
    said = refused(call, *small, "--out", tmp_path / "d.csv", "--resume", where=tmp_path)
    assert "d.csv: it is a file. Choose another --out." in said


def test_output_folder_of_another_run(call: Call, small: list[str], tmp_path: Path) -> None:
    assert call(*small, "--out", tmp_path / "run").code == 0
    said = refused(call, *small, "--out", tmp_path / "run", where=tmp_path)
    assert f"{tmp_path}/run exists. Use --resume to go on with it, or another --out." in said


@pytest.mark.parametrize("name", ["d.csv/run", "x" * 300])
def test_output_folder_that_cannot_be(name: str, call: Call, small: list[str], tmp_path: Path) -> None:
    said = refused(call, *small, "--out", tmp_path / name, where=tmp_path)
    assert "cannot write" in said
    assert "Choose another --out" in said


def test_nothing_to_resume(call: Call, small: list[str], tmp_path: Path) -> None:
    said = refused(call, *small, "--out", tmp_path / "run", "--resume", where=tmp_path)
    assert f"nothing to resume in {tmp_path}/run" in said
    assert "Start without --resume" in said


def test_resume_with_other_settings(call: Call, small: list[str], tmp_path: Path) -> None:
    assert call(*small, "--out", tmp_path / "run").code == 0
    said = refused(call, *small, "--out", tmp_path / "run", "--resume", "--seed", "7", where=tmp_path)
    assert "cannot resume with other settings: `seed` was 0, now 7" in said
    assert "Repeat them or choose another --out" in said


def test_resume_does_not_import_what_a_folder_names(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text("data: d.csv\nmetric: antigravity:fly\n", encoding="utf-8")
    said = refused(call, "compare", "--out", run, "--resume", where=tmp_path)
    assert "judged by code, antigravity:fly" in said
    assert "--metric antigravity:fly" in said


def test_resume_with_other_data(call: Call, small: list[str], tmp_path: Path) -> None:
    assert call(*small, "--out", tmp_path / "run").code == 0
    write_topics(tmp_path / "d.csv", 30, seed=1)
    said = refused(call, *small, "--out", tmp_path / "run", "--resume", where=tmp_path)
    assert "the data changed since the run began" in said


def test_report_of_no_run(call: Call, tmp_path: Path) -> None:
    said = refused(call, "report", tmp_path, where=tmp_path)
    assert f"no comparison.json in {tmp_path}" in said
    assert "finished run folder" in said
    (tmp_path / "report.html").write_text("<p>", encoding="utf-8")
    said = refused(call, "report", tmp_path / "report.html", where=tmp_path)
    assert f"{tmp_path}/report.html is a file. Allowed: a finished run folder, such as runs/NAME." in said


# --- adapters ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def adapter(finished_run: Path) -> Path:
    return finished_run / "adapters" / "lora" / "seed-0"


def test_no_adapter_there(call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    for verb in ("predict", "evaluate"):
        said = refused(call, verb, tmp_path, data, where=tmp_path)
        assert "is no adapter folder: no adapter.json" in said
        assert "Give a folder such as" in said


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_folder_above_the_adapters(verb: str, adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    said = refused(call, verb, adapter.parent, data, where=tmp_path)
    assert f"{adapter.parent} is no adapter folder, but " in said
    assert f"one a seed. Give one of them: {adapter}." in said
    run = adapter.parents[2]
    best = Run(run).decision.recommended
    assert best is not None
    assert f"Give the recommended one: {Run(run).adapter_folder(best)}." in refused(
        call, verb, run, data, where=tmp_path
    )


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_adapter_on_another_base(
    verb: str, adapter: Path, call: Call, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    data = write_topics(tmp_path / "d.csv")
    shutil.copytree(tiny_folder("bert"), tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    name = next(key for key in weights if key.endswith("word_embeddings.weight"))
    weights[name] = weights[name] + torch.ones(1)
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    said = refused(call, verb, adapter, data, "--model", tmp_path / "other", where=tmp_path)
    record = json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))
    from tunewright.backbones.checkpoint import load_checkpoint

    other = load_checkpoint(str(tmp_path / "other")).identity.sha256
    assert other != record["base"]["sha256"]
    assert f"weights {record['base']['sha256'][:12]}" in said
    assert f"weights {other[:12]}" in said


def test_predict_without_the_column(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_table(tmp_path / "d.csv", ("message", "review"), [("old bread", "a")])
    said = refused(call, "predict", adapter, data, where=tmp_path)
    assert "ambiguous text column. Got 2 candidates: 'message', 'review'. Choose one with --text." in said
    said = refused(call, "predict", adapter, data, "--text", "mesage", where=tmp_path)
    assert "unknown column 'mesage'. Did you mean 'message'? Allowed: message, review. Name it with --text." in said
    said = refused(call, "predict", adapter, data, "--text-pair", "review", where=tmp_path)
    assert "--text-pair has no use: there was no text_pair in training, only text. Drop it." in said


def test_evaluate_without_labels(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_table(tmp_path / "d.csv", ("text", "n"), [("old bread", "a")])
    said = refused(call, "evaluate", adapter, data, where=tmp_path)
    assert "no label column found" in said
    assert "Columns: 'text', 'n'. Choose one with --label." in said


def test_evaluate_on_labels_of_another_task(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_table(tmp_path / "d.csv", ("text", "label"), [("old bread", "1"), ("a train", "2")])
    said = refused(call, "evaluate", adapter, data, where=tmp_path)
    assert "no row has a label the adapter knows. Got '1', '2'. Allowed: 'food', 'music', 'travel'. Write the" in said


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_empty_text(verb: str, adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_table(tmp_path / "d.csv", ("text", "label"), [("old bread", "food"), (" ", "food")])
    said = refused(call, verb, adapter, data, where=tmp_path)
    assert "missing texts in column 'text': 1 of 2 rows (row 2)" in said


def test_evaluate_with_unknown_metric(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    said = refused(call, "evaluate", adapter, data, "--metric", "macro-fl", where=tmp_path)
    assert "unknown metric 'macro-fl'. Did you mean 'macro-f1'? Allowed: accuracy, macro-f1, mcc." in said


def test_predict_does_not_overwrite(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    before = data.read_bytes()
    said = refused(call, "predict", adapter, data, "--out", data, where=tmp_path)
    assert "d.csv exists. Choose another --out or remove it." in said
    assert data.read_bytes() == before


def test_predict_to_an_unknown_ending(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    said = refused(call, "predict", adapter, data, "--out", tmp_path / "o.xlsx", where=tmp_path)
    assert "unknown ending '.xlsx'" in said
    assert "Allowed: .csv, .tsv, .jsonl" in said


def test_predict_into_a_file_as_folder(adapter: Path, call: Call, tmp_path: Path) -> None:
    data = write_topics(tmp_path / "d.csv")
    said = refused(call, "predict", adapter, data, "--out", data / "o.csv", where=tmp_path)
    assert "cannot write" in said
