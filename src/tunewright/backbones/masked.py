"""Masked language models: encoders that also answer under a template, by how likely words are in the place of a mask.

The template's `[MASK]` becomes the tokenizer's own mask token. A word of k tokens is asked for with k masks in its
place, all at once; its score is the mean log-probability of its tokens (after Schick and Schuetze 2021, "It's Not Just
Size That Matters", section 3, who fill one mask after another). Words of several lengths take several passes.

Shapes: B rows, R passes over rows, L positions, M masks, D width, E width of the embeddings, F words.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Weights
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.next_token import NextToken
from tunewright.backbones.prompted import Frame, Prompted
from tunewright.errors import ModelError
from tunewright.prompts.template import MASK, one_mask
from tunewright.types import Example

Words = tuple[tuple[int, ...], ...]
"""Tokens of each word."""


class Masked(Prompted, Encoder):
    """A frozen masked language model that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32; without its head it is an encoder and no more.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(checkpoint, dtype=dtype, device=device)
        head, tokenizer = checkpoint.head, checkpoint.tokenizer
        self._words: dict[object, Words] = {}
        self._is_whole = checkpoint.fills_masks
        if head is not None and head.transform is not None:
            self._transform = copy.deepcopy(head.transform).to(device=device, dtype=dtype).requires_grad_(False)
            table = self._model.get_input_embeddings()  # type: ignore[operator]
            self._next_token = NextToken(table, head.weight_VD, head.bias_V, None).requires_grad_(False)
        inside = tokenizer("a", add_special_tokens=False)["input_ids"]
        whole = tokenizer("a")["input_ids"]
        start = next((k for k in range(len(whole)) if whole[k : k + len(inside)] == inside), 0)
        self._begin_ids, self._end_ids = tuple(whole[:start]), tuple(whole[start + len(inside) :])

    @property
    def answers_prompts(self) -> bool:
        return self._is_whole

    @property
    def takes_templates(self) -> bool:
        return self._is_whole

    @property
    def fills_masks(self) -> bool:
        return self._is_whole

    @property
    def shows_words(self) -> bool:
        return self._is_whole

    def word_rows(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self._next_token.rows(ids)

    def feature_width(self, adapter: Adapter) -> int:
        """Under a template features are those at the mask that the words are compared with."""
        return self.width if adapter.template is None else int(self._next_token.weight.shape[1])

    def encode_for(self, examples: Sequence[Example], adapter: Adapter, answer_tokens: int = 0) -> list[Encoding]:
        """Tokenises as the adapter's template has it, with one mask, so that there is room for the longest word.

        A mask in a row's own text is no place for an answer: it loses its brackets.

        Args:
            examples: Rows.
            adapter: Who will answer.
            answer_tokens: Masks that there must be room for beside the first; at least those of its longest word.

        Raises:
            ConfigError: The template has no place for the answer, or leaves no room for a text.
        """
        plain = examples if adapter.template is None else [self._plain(example) for example in examples]
        return super().encode_for(plain, adapter, answer_tokens)

    def _frame(self, adapter: Adapter) -> Frame:
        """All of it runs with each row, the mask under the tokenizer's own name."""
        if adapter.template is None:
            return Frame()
        template = one_mask(adapter.template, self.identity.name)
        return Frame(
            said=self._without_masks(template.fixed),
            begin_ids=self._begin_ids,
            end_ids=self._end_ids,
            template=Template.of(replace(template, fixed="", row=template.row.replace(MASK, self._mask))),
        )

    def _retrieved(
        self, examples: Sequence[Example], adapter: Adapter, retriever: Retriever, room: int
    ) -> Iterator[str]:
        return map(self._without_masks, super()._retrieved(examples, adapter, retriever, room))

    def answer_tokens(self, adapter: Adapter) -> int:
        """Most masks of its words, without the one that is in the row."""
        return max(0, super().answer_tokens(adapter) - 1)

    def encode_answer(self, text: str, *, after: str = f" {MASK}", ends: bool = False) -> tuple[int, ...]:  # noqa: ARG002
        """Tokens of a word in the place of the mask; with the space before it, where the template has one.

        Args:
            text: The word or words.
            after: The template's row.
            ends: Without effect: nothing follows a word.
        """
        before, mask, _ = after.partition(MASK)
        context, whole = self.token_ids("a"), self.token_ids(f"a {text.strip()}")
        spaced = not mask or before[-1:] == " "
        # Some tokenizers mark a space by the word that follows it: what stands after another word shows it.
        is_apart = spaced and whole[: len(context)] == context
        return tuple(whole[len(context) :] if is_apart else self.token_ids(text.strip()))

    def readings(self, rows: Sequence[Row]) -> list[Tensor]:
        """Features of each row, pooled or those at the mask; where its adapter scores words, then their scores."""
        if any(row.encoding.members for row in rows):
            return self.of_members(rows)
        if all(row.adapter.template is None for row in rows):
            return super().readings(rows)
        words = [row.encoding.choices or self._words_of(row.adapter) for row in rows]
        return self.by_pass(rows, lambda members, weights: self._read(rows, words, members, weights))

    def scores(self, rows: Sequence[Row], candidates: Sequence[tuple[int, ...]]) -> Tensor:
        """Mean log-probability of the tokens of every candidate in the place of each row's mask, fp32 [B, C].

        Args:
            rows: Inputs under templates.
            candidates: Tokens, as of `encode_answer`; at least one each.

        Raises:
            ModelError: The base came without its head.
        """
        if not self.answers_prompts:
            raise ModelError(f"model {self.identity.name!r} has no head for masked words. Save it whole.")
        words = [tuple(candidates)] * len(rows)
        found = self.by_pass(rows, lambda members, weights: self._read(rows, words, members, weights))
        return torch.stack([values[-len(candidates) :] for values in found])

    def _words_of(self, adapter: Adapter) -> Words:
        if not adapter.scores_phrases or adapter.template is None or adapter.verbalizer is None:
            return ()
        key = (adapter.labels, adapter.verbalizer.phrases, adapter.template.row)
        if key not in self._words:
            self._words[key] = tuple(self.phrase_ids(adapter))
        return self._words[key]

    def _read(
        self, rows: Sequence[Row], words: Sequence[Words], members: Sequence[int], weights: Weights | None
    ) -> list[Tensor]:
        """Features and scores of some rows, which run together: each row as often as its words have lengths."""
        passes = [(k, size) for k in members for size in _sizes(rows[k].adapter, words[k])]
        wide = [replace(rows[k], encoding=self._with_masks(rows[k].encoding, size)) for k, size in passes]
        hidden_RLD, layout = self.hidden_states(wide, weights)
        pooled_RD = self._pooled(hidden_RLD, layout)
        begins = [0, *accumulate(size for _, size in passes)]
        columns = [
            int(layout.first_text_B[r]) + wide[r].encoding.ids.index(self._mask_id) + place
            for r, (_, size) in enumerate(passes)
            for place in range(size)
        ]
        lines = [r for r, (_, size) in enumerate(passes) for _ in range(size)]
        lines_M, columns_M = torch.tensor([lines, columns], dtype=torch.long, device=self._device)
        masked_ME = self._transform(hidden_RLD[lines_M, columns_M])
        state = dict(zip(passes, begins[:-1], strict=True))
        asked = [(k, word) for k in members for word in words[k]]
        scores_F = self._means(masked_ME, [(state[k, len(word)], word) for k, word in asked], weights)
        scores = dict(zip(members, scores_F.split([len(words[k]) for k in members]), strict=True))
        features = dict[int, Tensor]()
        for r, (k, size) in enumerate(passes):
            features.setdefault(k, masked_ME[begins[r]].float() if size else pooled_RD[r])
        return [torch.cat([features[k], scores[k]]) for k in members]

    def _means(
        self, masked_ME: Tensor, asked: Sequence[tuple[int, tuple[int, ...]]], weights: Weights | None
    ) -> Tensor:
        """Mean log-probability of each word's tokens, fp32 [F], each word given with the first of its masks."""
        pairs = sorted(
            (begin + place, token, f) for f, (begin, word) in enumerate(asked) for place, token in enumerate(word)
        )
        found = self._next_token.log_probs(masked_ME, [m for m, _, _ in pairs], [i for _, i, _ in pairs], weights)
        owner = torch.tensor([f for *_, f in pairs], dtype=torch.long, device=self._device)
        size_F = torch.tensor([len(word) for _, word in asked], device=self._device)
        return found.new_zeros(len(asked)).index_add(0, owner, found) / size_F

    def _with_masks(self, encoding: Encoding, count: int) -> Encoding:
        """So many masks in the place of one; the encoding itself where none is asked for."""
        if count < 2:
            return encoding
        at = encoding.ids.index(self._mask_id)
        ids = (*encoding.ids[:at], *[self._mask_id] * count, *encoding.ids[at + 1 :])
        return Encoding(ids=ids, type_ids=(0,) * len(ids), num_cut=encoding.num_cut)

    @property
    def _mask(self) -> str:
        return str(self._checkpoint.tokenizer.mask_token)

    @property
    def _mask_id(self) -> int:
        return int(self._checkpoint.tokenizer.mask_token_id)

    def _without_masks(self, text: str) -> str:
        return text.replace(self._mask, self._mask.strip("[]<>"))

    def _plain(self, example: Example) -> Example:
        pair = example.text_pair
        second = None if pair is None else self._without_masks(pair)
        fields = {name: self._without_masks(cell) for name, cell in example.fields.items()}
        return replace(example, text=self._without_masks(example.text), text_pair=second, fields=fields)


def _sizes(adapter: Adapter, words: Words) -> list[int]:
    """Numbers of masks with which a row runs, ascending: those of its words, and one where features are asked for."""
    if adapter.template is None:
        return [0]
    reads_features = not words or adapter.head is not None or adapter.demonstrations is not None
    return sorted({*map(len, words), *([1] if reads_features else [])})
