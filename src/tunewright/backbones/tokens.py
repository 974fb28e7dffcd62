"""From texts to token ids, and from token ids to a padded batch.

Shapes: B rows, L positions (soft prompt and text of the longest row), N virtual tokens of the batch, D width.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunewright.adapters.parts import Template
from tunewright.backbones.base import Encoding
from tunewright.errors import DataError
from tunewright.types import Example

_BUCKET = 2
"""Batches are padded to a multiple of this. bf16 kernels work on pairs; more than that is work on nothing."""


BATCH_TOKENS = 4096
"""Tokens, padding included, of one batch while predicting."""


def by_length(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Indices in batches of similar length, at most `batch_tokens` padded tokens each, longest first.

    The longest come first, so that what does not fit in memory fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    batch: list[int] = []
    for k in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch


def encode(tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], limit: int) -> list[Encoding]:
    """Tokenises texts and pairs; the longer text of a pair is cut first.

    Args:
        tokenizer: The base's own.
        examples: Rows; all or none with a `text_pair`.
        limit: Most tokens of an input, special tokens included.
    """
    if not examples:
        return []
    texts = [example.text for example in examples]
    pairs = None if examples[0].text_pair is None else [example.text_pair or "" for example in examples]
    # Not verbose: the base would warn of long texts that are cut below.
    whole = tokenizer(
        texts, pairs, truncation=False, return_attention_mask=False, return_token_type_ids=True, verbose=False
    )
    cut = [k for k, ids in enumerate(whole["input_ids"]) if len(ids) > limit]
    ids, types = list(whole["input_ids"]), list(whole["token_type_ids"])
    lost = [0] * len(texts)
    for k in cut:
        pair = None if pairs is None else pairs[k]
        short = tokenizer(texts[k], pair, truncation="longest_first", max_length=limit, return_token_type_ids=True)
        lost[k] = len(ids[k]) - len(short["input_ids"])
        ids[k], types[k] = short["input_ids"], short["token_type_ids"]
    return [Encoding(ids=tuple(i), type_ids=tuple(t), num_cut=n) for i, t, n in zip(ids, types, lost, strict=True)]


def written_chat(tokenizer: PreTrainedTokenizerFast, example: Example) -> str:
    """A conversation by the tokenizer's chat template, without what it puts before every text anyway.

    The line break at its end is left to prompts, whose rows end in one where nothing else goes before an answer.
    """
    messages = [{"role": role, "content": content} for role, content in example.messages]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:  # its expressions are the model's
        fault = f"row {example.id}: the model's chat template does not take its messages: {error}"
        raise DataError(f"{fault}. Mend the row, or choose another --model.") from None
    comes_anyway = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(text).removeprefix(str(tokenizer.bos_token) if comes_anyway else "").removesuffix("\n")


def encode_framed(
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    template: Template,
    ends: tuple[Sequence[int], Sequence[int]],
    limits: Sequence[int],
    before: Sequence[str],
) -> list[Encoding]:
    """Tokenises what a template makes of texts and pairs; of what is too long the longest text is cut.

    Args:
        tokenizer: The base's own.
        examples: Rows.
        template: Around each.
        ends: Tokens before and after each.
        limits: Most tokens of each row, those around its text included, for which there must be room.
        before: Further words before each row.
    """
    if not examples:
        return []

    def ids_of(texts: list[str]) -> list[list[int]]:
        return list(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])

    filled = [f"{words}{template.show(e)}" for e, words in zip(examples, before, strict=True)]
    found = []
    for example, whole, most, words in zip(examples, ids_of(filled), limits, before, strict=True):
        limit = most - sum(map(len, ends))
        ids, texts = whole, template.words(example)
        while len(ids) > limit and any(texts.values()):
            sizes = dict(zip(texts, map(len, ids_of(list(texts.values()))), strict=True))
            longest, too_many = max(sizes, key=sizes.__getitem__), len(ids) - limit
            if len(texts) > 1:  # the longest gives all that it has more than the next, and half of what is then to go
                second = sorted(sizes.values())[-2]
                too_many = min(too_many, math.ceil((too_many + sizes[longest] - second) / 2))
            texts[longest] = _without_end(tokenizer, texts[longest], too_many)
            ids = ids_of([f"{words}{template.fill(texts)}"])[0]
        every = (*ends[0], *ids, *ends[1])
        found.append(Encoding(ids=every, type_ids=(0,) * len(every), num_cut=len(whole) - len(ids)))
    return found


def _without_end(tokenizer: PreTrainedTokenizerFast, text: str, num_tokens: int) -> str:
    """A text without its last tokens; always shorter, though one character may be several tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    end = offsets[-num_tokens - 1][1] if len(offsets) > num_tokens else 0
    return text[: min(end, len(text) - 1)]


def fitting(nearest: Sequence[str], room_tokens: int, num_tokens: Callable[[str], int]) -> str:
    """As many of the nearest examples as fit, the nearest last.

    Args:
        nearest: The nearest first.
        room_tokens: For all of them.
        num_tokens: Of a text.
    """
    sizes = accumulate(map(num_tokens, nearest))
    return "".join(reversed([shown for shown, size in zip(nearest, sizes, strict=True) if size <= room_tokens]))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything of a batch stands: `[soft prompt][text][padding]` in each row."""

    ids_BL: Tensor
    types_BL: Tensor
    mask_BL: Tensor
    """1 on soft prompt and text."""
    text_BL: Tensor
    """1 on text."""
    prompt_rows_N: Tensor
    prompt_columns_N: Tensor
    first_text_B: Tensor
    """Column of each row's first text token."""

    def mean(self, hidden_BLD: Tensor) -> Tensor:
        """Over each row's text, fp32 [B, D]."""
        text_BL = self.text_BL.to(hidden_BLD.device)
        total_BD: Tensor = (hidden_BLD * text_BL[..., None]).sum(1, dtype=torch.float32)
        return total_BD / text_BL.sum(1, keepdim=True)


def lay_out(encodings: Sequence[Encoding], prompt_lengths: Sequence[int], pad_id: int) -> Layout:
    """The padded batch.

    Args:
        encodings: One per row.
        prompt_lengths: Soft prompt tokens of each row.
        pad_id: Fills ids under prompts and padding.
    """
    lengths = [len(e.ids) + p for e, p in zip(encodings, prompt_lengths, strict=True)]
    width = -(-max(lengths) // _BUCKET) * _BUCKET

    def padded(values: Sequence[int], prompt: int, fill: int) -> list[int]:
        return [fill] * prompt + list(values) + [fill] * (width - prompt - len(values))

    pairs = list(zip(encodings, prompt_lengths, strict=True))
    first_B = torch.tensor(prompt_lengths)
    columns_L = torch.arange(width)
    mask_BL = columns_L < torch.tensor(lengths)[:, None]
    return Layout(
        ids_BL=torch.tensor([padded(e.ids, p, pad_id) for e, p in pairs]),
        types_BL=torch.tensor([padded(e.type_ids, p, 0) for e, p in pairs]),
        mask_BL=mask_BL.long(),
        text_BL=(mask_BL & (columns_L >= first_B[:, None])).long(),
        prompt_rows_N=torch.repeat_interleave(torch.arange(len(pairs)), first_B),
        prompt_columns_N=torch.cat([torch.arange(p) for p in prompt_lengths]),
        first_text_B=first_B,
    )
