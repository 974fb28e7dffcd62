"""Demonstrations and passages searched on a server: the same answers as without one, of training rows alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
import torch
from torch import Tensor

from tests import tiny
from tests.commands import Call, write_topics
from tests.methods import test_leaks
from tests.methods.test_prompting import material, read, train_and_held_out
from tests.postgresql import Relay
from tests.serve.live import ABOUT, serving
from tunewright.adapters import folder
from tunewright.adapters.adapter import Adapter
from tunewright.api import compare
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import predict
from tunewright.errors import VectorStoreError
from tunewright.files import read_lines
from tunewright.methods.base import Material
from tunewright.methods.table import METHODS
from tunewright.prompts import pgvector
from tunewright.runtime import generator
from tunewright.tuning.progress import Silent
from tunewright.types import Params

GetDecoder = Callable[[str], Decoder]
POINTS: dict[str, Params] = {
    "few-shot": {"template": "yours", "shots": 2, "choice": "nearest", "calibration": "none"},
    "retrieve": {"template": "yours", "passages": 1, "by": "nearest", "calibration": "none"},
}


def place(made: Material, name: str, url: str | None) -> Adapter:
    return METHODS[name].place(replace(made, vector_store=url), POINTS[name], generator("x"))


def collections(url: str) -> dict[str, Tensor]:
    """All that is on the server."""
    with pgvector.server(url)._engine.connect() as connection:
        names = [name for name in sql.inspect(connection).get_table_names() if name.startswith("tunewright_")]
        found = {}
        for name in names:
            rows = connection.execute(sql.text(f'SELECT position, vector::text FROM "{name}" ORDER BY 1')).all()
            assert [k for k, _ in rows] == list(range(len(rows)))
            found[name] = torch.tensor([[float(v) for v in text.strip("[]").split(",")] for _, text in rows])
        return found


@pytest.mark.parametrize("name", POINTS)
def test_answers_are_those_without_a_server(
    name: str, vector_store: str, tiny_decoder: GetDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each row becomes and what is answered; the adapter's folder has no vectors, and names no server."""
    base = tiny_decoder("llama")
    made, rows = material(base, tiny.task()), (*train_and_held_out()[0][:4], *train_and_held_out()[1])
    here, there = place(made, name, None), place(made, name, vector_store)
    assert here.retriever is not None
    assert there.retriever is not None
    assert set(there.tensors()) == set(here.tensors()) - {"retriever.vectors"} != set(here.tensors())
    assert read(base, there, rows) == read(base, here, rows)
    folder.save(there, tmp_path / "a")
    assert "postgresql" not in (tmp_path / "a" / "adapter.json").read_text(encoding="utf-8")
    loaded = folder.load(tmp_path / "a")
    base.check(loaded)
    expected = predict(here, base.encode_for(rows, here), made.store)
    assert torch.equal(predict(loaded, base.encode_for(rows, loaded), made.store), expected)
    torch.testing.assert_close(collections(vector_store)[str(there.retriever.collection)], here.retriever.vectors_ND)
    monkeypatch.delenv(pgvector.URL)
    assert torch.equal(predict(there, base.encode_for(rows, there), made.store), expected), "it knows its server itself"
    with pytest.raises(VectorStoreError, match=r"TUNEWRIGHT_VECTOR_STORE for adapters that need one\) is not given"):
        base.encode_for(rows, loaded)


@pytest.mark.parametrize("seed", range(6))
def test_no_row_that_is_held_out_is_on_the_server(
    seed: int, vector_store: str, tiny_decoder: GetDecoder, tmp_path: Path
) -> None:
    """Of any split it has the training rows' features, and nothing else; of another run not one."""
    base = tiny_decoder("llama")
    rows = test_leaks.dataset(tmp_path, seed, 40 + 7 * seed)
    made = test_leaks.material(base, rows)
    for name in POINTS:
        place(made, name, vector_store)
    unit_ND = torch.nn.functional.normalize(made.store(made.rows.encodings), dim=-1)
    found = {len(vectors_ND): vectors_ND for vectors_ND in collections(vector_store).values()}
    assert found.keys() == {len(rows.splits.train), len(made.documents)}
    torch.testing.assert_close(found[len(rows.splits.train)], unit_ND)
    held_out = made.store(base.encode([*rows.splits.dev, *rows.splits.test], base.max_tokens))
    near = torch.nn.functional.normalize(held_out, dim=-1) @ torch.cat(list(found.values())).T
    assert near.max() < 1 - 1e-6
    leaking = replace(rows, splits=replace(rows.splits, train=(*rows.splits.train, *rows.splits.test)))
    place(test_leaks.material(base, leaking), "few-shot", vector_store)
    near = torch.nn.functional.normalize(held_out, dim=-1) @ torch.cat(list(collections(vector_store).values())).T
    assert near.max() > 1 - 1e-6, "a leak would be seen"


def test_a_server_that_goes_away_in_the_middle_ends_the_run_which_then_goes_on(
    relay: tuple[Relay, str],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and code 2; resumed, the run says what one without a server says."""
    line, url = relay
    data, base = write_topics(tmp_path / "topics.csv", 36), tiny_folder("llama")
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    asked = ("compare", data, "--model", base, "--methods", "majority,few-shot", "--trials", "10", "--seeds", "1")
    stored = (*asked, "--folds", "1", "--vector-store", url, "--out", tmp_path / "run")
    line.most_bytes = 40_000
    cut = call(*stored)
    assert cut.code == 2
    assert cut.err.splitlines()[-1].startswith(f"tunewright: cannot use the vector store {url}: ")
    assert cut.err.splitlines()[-1].endswith("a run goes on with --resume.")
    line.most_bytes, line.is_cut = None, False
    assert call(*stored, "--resume").code == 0
    plain: dict[str, Any] = {"methods": ["majority", "few-shot"], "trials": 10, "seeds": 1, "folds": 1}
    whole = compare(str(data), model=[str(base)], out=str(tmp_path / "whole"), listener=Silent(), **plain)
    keys = ("candidate", "trial", "params", "status", "value")
    trials = [[[each[k] for k in keys] for each in read_lines(tmp_path / n / "trials.jsonl")] for n in ("run", "whole")]
    assert trials[0] == trials[1]
    assert "nearest" in {str(params.get("choice")) for _, _, params, _, _ in trials[0]}
    assert collections(url)
    name = Path("predictions") / "few-shot" / "seed-0.jsonl"
    assert read_lines(tmp_path / "run" / name) == read_lines(whole.folder / name)


def test_without_a_method_that_searches_it_has_no_effect(
    vector_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    data = write_topics(tmp_path / "topics.csv", 36)
    told = call("compare", data, "--methods", "majority", "--vector-store", vector_store)
    assert told.code == 2
    assert "`vector_store` is for method 'few-shot' or 'retrieve', which takes no part." in told.err


def test_for_encoders_alone_it_has_no_effect(
    vector_store: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    asked = ("compare", write_topics(tmp_path / "topics.csv", 36), "--model", tiny_folder("bert"))
    told = call(*asked, "--methods", "few-shot", "--vector-store", vector_store, "--out", tmp_path / "run")
    assert told.code == 2
    assert "`vector_store` is for models that answer prompts and show features" in told.err
    assert collections(vector_store) == {}


def test_a_served_task_whose_server_is_gone_harms_no_other(
    relay: tuple[Relay, str], tiny_decoder: GetDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, url = relay
    base = tiny_decoder("llama")
    made = material(base, tiny.task())
    near = place(made, "few-shot", url)
    folder.save(near.with_about(ABOUT), tmp_path / "near")
    folder.save(replace(near, retriever=None).with_about(ABOUT), tmp_path / "bare")
    with serving([str(tmp_path / "near"), str(tmp_path / "bare")]) as live, live.client() as client:
        asked = {"text": train_and_held_out()[1][0].text}
        assert [client.post(f"/v1/tasks/{name}/predict", json=asked).status_code for name in ("near", "bare")] == [
            200
        ] * 2
        line.cut(whole=True)
        gone = client.post("/v1/tasks/near/predict", json=asked)
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "vector_store_unavailable")
        assert "postgresql" not in gone.text
        assert client.post("/v1/tasks/bare/predict", json=asked).status_code == 200
        monkeypatch.delenv(pgvector.URL)
        unnamed = client.post("/v1/tasks/near/predict", json=asked)
        assert (unnamed.status_code, unnamed.json()["error"]["code"]) == (503, "vector_store_unavailable")
        assert pgvector.URL not in unnamed.text
