"""Conversations reach a chat model by its own template: token for token as transformers has them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import transformers
from tokenizers import processors

from tests import tiny
from tests.commands import Call
from tests.methods.test_label_words import workshop
from tests.serve.live import ABOUT, serving
from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.inference import predict
from tunewright.errors import DataError
from tunewright.files import read_lines
from tunewright.methods.prompting import NOTHING_SAID, asking, calibrated
from tunewright.prompts.calibration import content_free_points, domain_points
from tunewright.prompts.template import PLAIN, premise
from tunewright.releases.payload import prompt_vectors
from tunewright.serve.ask import Ask, Event, Reply
from tunewright.serve.predictor import Predictor
from tunewright.serve.tasks import Served
from tunewright.serve.work import prepare
from tunewright.types import Example

CHATML = (
    "{{ bos_token }}{% if messages[-1].content == 'nothing' %}{{ 1 // 0 }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('a system message comes first') }}{% endif %}{{ m.role[0] }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}a:\n{% endif %}"
)
TALK = (("system", "one song"), ("user", "soup"), ("assistant", "and"), ("user", "it"))


def build(folder: Path, *, adds_bos: bool) -> Path:
    tiny.build("llama", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHATML
    if not adds_bos:  # as SmolLM2's, which has the token and leaves it to the template
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    tokenizer.save_pretrained(folder)
    begin = [tokenizer.bos_token_id] if adds_bos else []
    assert transformers.AutoTokenizer.from_pretrained(folder)("")["input_ids"] == begin
    return folder


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("chat"), adds_bos=True)


@pytest.fixture(scope="module")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bare"), adds_bos=False)


def adapter(base: Decoder, row: str) -> Adapter:
    template = Template(fixed="", row=row)
    return Adapter(base=base.identity, labels=("a", "b"), max_tokens=base.max_tokens, template=template)


@pytest.mark.parametrize("name", ["chat_folder", "bare_folder"])
def test_tokens_are_those_of_transformers(
    name: str, request: pytest.FixtureRequest, tiny_decoder: Callable[[str], Decoder]
) -> None:
    """Under the plain prompt, with one token at the start, whoever puts it there; other texts stay as they are."""
    chat_folder: Path = request.getfixturevalue(name)
    base = tiny.decoder(chat_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat_folder)
    said = Example(id="1", text="not this", messages=TALK)
    messages = [{"role": role, "content": content} for role, content in TALK]
    found = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    expected = cast(dict[str, list[int]], found)["input_ids"]
    plain = Example(id="2", text="we had soup")
    whole, other = base.encode_for([said, plain], adapter(base, PLAIN.row))
    assert list(whole.ids) == expected
    bare = tiny_decoder("llama")
    (same,) = bare.encode_for([plain], adapter(bare, PLAIN.row))
    assert other.ids == same.ids[name == "bare_folder" :]
    (text,) = bare.encode_for([Example(id="1", text="we had soup", messages=TALK)], adapter(bare, PLAIN.row))
    assert text == same
    assert list(base.encode([said], base.max_tokens)[0].ids) == expected[:-1]  # without the prompt's line break


def test_conversations_that_a_template_refuses(chat_folder: Path) -> None:
    base = tiny.decoder(chat_folder)
    late = Example(id="train:7", text="x", messages=(*TALK[1:], TALK[0]))
    void = Example(id="train:7", text="x", messages=(("user", "nothing"),))
    for row, cause in ((late, "a system message comes first"), (void, "integer division or modulo by zero")):
        said = f"row train:7: the model's chat template does not take its messages: {cause}"
        with pytest.raises(DataError, match=said):
            base.encode([row], base.max_tokens)


def test_a_row_that_a_template_refuses_harms_no_other_of_its_batch(chat_folder: Path) -> None:
    """Under a prompt and without one."""
    base = tiny.decoder(chat_folder)
    framed = adapter(base, PLAIN.row).with_about(ABOUT | {"messages": True})
    bare = tiny.adapter(base).with_about(framed.about)
    served = Served(task="chats", version=1, folder="x")
    for made in (framed, bare):
        told: list[tuple[Ask, Event]] = []
        rows = [Example(id=t, text=t) for t in ("soup", "nothing", "song")]
        work = prepare(base, [(Ask(served=served, example=row, reply=Reply()), made) for row in rows], told)
        assert [each.ask.example.text for each in work] == ["soup", "song"]
        assert [ask.example.text for ask, _ in told] == ["nothing"]
        assert isinstance(told[0][1], DataError)


def test_a_soft_prompt_for_vllm_has_the_text_as_a_message(chat_folder: Path) -> None:
    base = tiny.decoder(chat_folder)
    soft = replace(adapter(base, PLAIN.row), soft_prompt=tiny.soft_prompt(base, 2, seed=1))
    (chat,) = base.encode_for([Example(id="1", text="soup", messages=(("user", "soup"),))], soft)
    for about, is_chat in (({"messages": True}, True), ({}, False)):
        vectors_ND = prompt_vectors(soft.with_about(about), base, "soup")
        expected_TD = base.word_embeddings[torch.tensor(chat.ids)].float()
        assert (vectors_ND[2:].shape == expected_TD.shape and torch.equal(vectors_ND[2:], expected_TD)) is is_chat


@pytest.mark.parametrize("how", ["contextual", "pmi"])
def test_zero_points_are_of_conversations_without_content(how: str, chat_folder: Path) -> None:
    """The bias is of what the model says to a user who says nothing, in the template's words."""
    base = tiny.decoder(chat_folder)
    plain = workshop(base).material
    chats = [replace(row, messages=(("user", row.text),)) for row in plain.examples]
    found = []
    for material in (plain, replace(plain, examples=chats)):
        made = calibrated(material.adapter(**asking(material, PLAIN)), material, {"calibration": how}).calibration
        assert made is not None
        assert made.bias_C is not None
        found.append(made.bias_C)
    bare = plain.adapter(**asking(plain, PLAIN))
    texts = NOTHING_SAID if how == "contextual" else ("",)
    if how == "pmi":
        bare = replace(bare, template=Template.of(premise(Template.of(PLAIN))))
    rows = [Example(id=text, text=text, messages=(("user", text),)) for text in texts]
    logits_KC = predict(bare, base.encode_for(rows, bare), plain.store)
    expected_C = content_free_points(logits_KC) if how == "contextual" else domain_points(logits_KC[0])
    torch.testing.assert_close(found[1], expected_C)
    assert not torch.allclose(found[0], expected_C)


def test_a_comparison_on_conversations(
    chat_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained and judged on them; `predict` says the same again, and takes a text alone for a message of the user."""
    call = Call(monkeypatch=monkeypatch, capsys=capsys)
    rows = [
        {"messages": [{"role": "user", "content": f"say {w} {k}"}, {"role": "assistant", "content": w}]}
        for k, w in enumerate(tiny.WORDS)
    ]
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = ("--task", "generate", "--methods", "zero-shot", "--trials", "1", "--seeds", "1", "--folds", "1")
    told = call("compare", data, *asked, "--model", chat_folder, "--out", tmp_path / "run")
    assert told.code == 0, told.err
    path = tmp_path / "run" / "adapters" / "zero-shot" / "seed-0"
    assert call("evaluate", path, data).code == 0
    assert call("predict", path, data, "--out", tmp_path / "out.jsonl").code == 0
    answers = {f"chats:{k}": row["predicted"] for k, row in enumerate(read_lines(tmp_path / "out.jsonl"), 1)}
    known = read_lines(tmp_path / "run" / "predictions" / "zero-shot" / "seed-0.jsonl")
    assert known
    assert {line["id"]: line["text"] for line in known}.items() <= answers.items()
    predictor = Predictor.load(path)
    assert predictor.adapter.about["messages"] is predictor.adapter.about["reply_behind"] is True
    (alone,) = predictor.predict(["say soup 7"])
    (chatted,) = predictor.predict([Example(id="1", text="say soup 7", messages=(("user", "say soup 7"),))])
    assert alone.text == chatted.text
    with serving([f"chats={path}"]) as live, live.client() as client:
        chat = {"model": "chats", "messages": [{"role": "user", "content": "say soup 7"}], "temperature": 0}
        for route, body in (("/v1/tasks/chats/predict", {"text": "say soup 7"}), ("/v1/chat/completions", chat)):
            sent = client.post(route, json=body)
            assert sent.status_code == 200, sent.text
            assert json.dumps(alone.text, ensure_ascii=False)[1:-1] in sent.text
