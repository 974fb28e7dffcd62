"""Encoder-decoders: the same losses, texts and features as transformers' own models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from tests import tiny
from tunewright.adapters.parts import Decoding
from tunewright.backbones.base import Encoding
from tunewright.backbones.seq2seq import Seq2Seq

GetSeq2Seq = Callable[[str], Seq2Seq]
GetFolder = Callable[[str], Path]
TEXTS = ["soup", "the train was late and my luggage is in the airport", "a piano", "bread with cheese!"]
CANDIDATES = ["food", "travel", "the old song", "the old bridge near it", "the"]

pytestmark = [pytest.mark.parametrize("kind", tiny.SEQ2SEQ), pytest.mark.usefixtures("_quiet")]


@pytest.fixture
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


def whole_model(folder: Path) -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


def loss_of(model: Any, encoding: Encoding, answer: tuple[int, ...]) -> float:
    """transformers' own, of one row alone; the token with which BART begins every text is given, and not counted."""
    given = [0] if model.config.model_type == "bart" else []
    start, ids = [model.config.decoder_start_token_id], list(answer)
    labels = torch.tensor([[*[-100] * len(given), *ids]])
    shifted = torch.tensor([[*start, *given, *ids[:-1]]])
    inputs = torch.tensor([list(encoding.ids)])
    with torch.no_grad():
        return float(model(input_ids=inputs, decoder_input_ids=shifted, labels=labels).loss)


def test_tokens_are_the_tokenizers(kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder) -> None:
    """An answer is tokenised as transformers tokenises a label text, and ends."""
    base, tokenizer = tiny_seq2seq(kind), transformers.AutoTokenizer.from_pretrained(tiny_folder(kind))
    for text in CANDIDATES:
        ids = list(base.encode_answer(text))
        assert tokenizer(text_target=text)["input_ids"] == ([0, *ids] if kind == "bart" else ids)
    assert [list(e.ids) for e in tiny.encodings(base, TEXTS)] == tokenizer(TEXTS)["input_ids"]


def test_losses(kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder) -> None:
    """Of each candidate after each text, by itself and in the tree of all of them."""
    base, model = tiny_seq2seq(kind), whole_model(tiny_folder(kind))
    found = tiny.encodings(base, TEXTS)
    answers = [base.encode_answer(text) for text in CANDIDATES]
    expected_BC = torch.tensor([[loss_of(model, e, answer) for answer in answers] for e in found])
    rows = tiny.rows(tiny.adapter(base), found)
    with torch.no_grad():
        in_tree_BC = -base.scores(rows, answers)
        pairs = [(row, answer) for row in rows for answer in answers]
        alone = base.answer_log_probs([row for row, _ in pairs], [answer for _, answer in pairs])
    alone_BC = torch.stack([-log_probs.mean() for log_probs in alone]).view(len(rows), len(answers))
    assert (torch.pdist(expected_BC) > 1e-2).all(), "texts that do not tell a shuffle apart"
    torch.testing.assert_close(in_tree_BC, expected_BC, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone_BC, expected_BC, atol=1e-5, rtol=0)


def test_texts(kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder) -> None:
    """Token for token what `generate` writes greedily, in one batch and until each row ends by itself."""
    base, model = tiny_seq2seq(kind), whole_model(tiny_folder(kind))
    found = tiny.encodings(base, TEXTS)
    written = base.generate(tiny.rows(tiny.adapter(base), found), decoding=Decoding(max_new_tokens=12))
    forced = 1 if kind == "bart" else 0
    model.generation_config.forced_bos_token_id = 0 if forced else None
    model.generation_config.forced_eos_token_id = None  # BART's files end what has no more room
    for encoding, one in zip(found, written, strict=True):
        ids = model.generate(
            torch.tensor([list(encoding.ids)]), max_new_tokens=12 + forced, do_sample=False, num_beams=1
        )[0].tolist()
        assert list(one.ids) == ids[1 + forced :]
        (again,) = base.answer_log_probs(tiny.rows(tiny.adapter(base), [encoding]), [one.ids])
        torch.testing.assert_close(torch.tensor(one.log_probs), again, atol=1e-5, rtol=1e-5)
    assert len({one.ids for one in written}) > 1


def test_features(kind: str, tiny_seq2seq: GetSeq2Seq, tiny_folder: GetFolder) -> None:
    """The mean over the encoder's last states of each text."""
    base, model = tiny_seq2seq(kind), whole_model(tiny_folder(kind))
    found = tiny.encodings(base, TEXTS)
    with torch.no_grad():
        hidden = [model.get_encoder()(input_ids=torch.tensor([list(e.ids)])).last_hidden_state[0] for e in found]
    expected: Tensor = torch.stack([each.mean(0) for each in hidden])
    torch.testing.assert_close(base.features(tiny.rows(tiny.adapter(base), found)), expected, atol=1e-5, rtol=1e-5)
