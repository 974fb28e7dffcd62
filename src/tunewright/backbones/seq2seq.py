"""Encoder-decoders: an encoder reads the row, a decoder of its own answers it.

The encoder sees both ways, so all that stands before a text travels with its row: `[soft prompt][template and text]`,
and pads after them. A deep prefix stands before the keys of every layer of the encoder; a relative position it has
none, so that T5 sees it from everywhere alike. Features are the mean over the encoder's text. What the encoder makes of
a row is made once, and seen by all of its candidates and by every token that is written.

Shapes: B rows, L positions of the encoder, T of the decoder, U nodes of a tree, D width, R rows that run together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import DynamicCache, EncoderDecoderCache

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Weights, is_embedding
from tunewright.backbones import attention
from tunewright.backbones.backbone import Update
from tunewright.backbones.base import Generation, Request, Row
from tunewright.backbones.checkpoint import Checkpoint
from tunewright.backbones.generation import Answering, choose, whole
from tunewright.backbones.prompted import Frame
from tunewright.backbones.recomputed import recomputed
from tunewright.backbones.scoring import Tree, tree_scores
from tunewright.backbones.stepwise import Emitted
from tunewright.backbones.tokens import Layout, lay_out
from tunewright.backbones.writer import GENERATED_ROWS, Writer
from tunewright.backbones.written import Written
from tunewright.runtime import quiet_libraries

_USUAL_TOKENS = 512
"""Longest input of a base that counts positions from each token and does not say how far it was trained."""

_BRANCH_TOKENS = 4096
"""Tokens of candidates that run at a time."""

_IN_LAYER = re.compile(r"(en|de)coder\.\w+\.\d+\.")

_CROSS = ("EncDecAttention.k.", "EncDecAttention.v.", "encoder_attn.k_proj.", "encoder_attn.v_proj.")
"""Of the decoder, what runs over the encoder's tokens."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the encoder made of some rows."""

    hidden_BLD: Tensor
    mask_BL: Tensor
    """1 on soft prompt and text."""
    loras: Sequence[Update | None]
    weights: Weights | None

    def of(self, members: Sequence[int]) -> "Memory":
        """Of some of the rows."""
        index = torch.tensor(members, device=self.mask_BL.device)
        loras = [self.loras[k] for k in members]
        return replace(self, hidden_BLD=self.hidden_BLD[index], mask_BL=self.mask_BL[index], loras=loras)


class Seq2Seq(Writer):
    """A frozen encoder-decoder that runs rows of any mixture of adapters.

    Args:
        checkpoint: The base, fp32.
        dtype: Precision to run the frozen weights in.
        device: Where to run.
    """

    prefix_shape: tuple[int, int, int]

    def __init__(self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(checkpoint, dtype=dtype, device=device)
        self.prefix_shape = self._adopt_attention()

    def _adopt_attention(self) -> tuple[int, int, int]:
        """Switches both stacks to our attention; returns the shape of a prefix, found by running a position."""
        seen: list[tuple[nn.Module, int, int]] = []
        with quiet_libraries(), torch.no_grad():
            for stack in (self._model.encoder, self._model.decoder):
                stack.set_attn_implementation(attention.NAME)  # type: ignore[operator,union-attr]
            embeds_11D = torch.zeros(1, 1, self.width, dtype=self.dtype, device=self._device)
            self._model.encoder(inputs_embeds=embeds_11D, seen=seen)  # type: ignore[operator]
        return (len(seen), *seen[0][1:])

    @property
    def max_tokens(self) -> int:
        """Longest input, soft prompt or prefix included, and longest answer."""
        config = self._checkpoint.config
        said = getattr(config, "max_position_embeddings", getattr(config, "n_positions", None))
        return _USUAL_TOKENS if said is None else int(said)

    answers_apart: bool = True

    @cached_property
    def linears(self) -> dict[str, nn.Linear]:
        """The linear layers a LoRA may change: all of both stacks."""
        return {name: m for name, m in self._model.named_modules() if isinstance(m, nn.Linear)}

    @cached_property
    def _layer_sizes(self) -> dict[str, int]:
        """Of the parameters of both stacks' layers, by name; what T5 looks up for distances is no product."""
        named = self._masters.named_parameters()
        return {name: p.numel() for name, p in named if _IN_LAYER.match(name) and not is_embedding(name)}

    @property
    def num_computing(self) -> int:
        return sum(self._layer_sizes.values())

    def computing(self, read: float, written: float) -> float:
        return sum(size * self.tokens_through(name, read, written) for name, size in self._layer_sizes.items())

    def is_run(self, name: str, *, writing: bool) -> bool:
        """Features are the encoder's alone."""
        return writing or name.startswith("encoder.") or name == self.vocabulary_name

    def tokens_through(self, name: str, read: float, written: float) -> float:
        """The decoder makes keys and values of what the encoder has read, and runs over what is written."""
        if not name.startswith("decoder."):
            return read
        crosses = any(part in f"{name}." for part in _CROSS)
        return written if not crosses else read if written else 0.0

    def phrase_work(self, adapter: Adapter) -> tuple[int, int]:
        """The decoder's pass begins with tokens of its own."""
        nodes = len(self._phrase_tree(adapter).tokens)
        return len(self._start_ids) + nodes, (1 + nodes) * self.num_words

    # --- texts ---

    def _frame(self, adapter: Adapter) -> Frame:
        """All of a template travels with the row, of which the answer is no continuation."""
        if adapter.template is None:
            return Frame()
        begin, end = self._ends
        template = replace(adapter.template, row=adapter.template.row.rstrip())
        return Frame(said=template.fixed, begin_ids=begin, end_ids=end, template=template)

    def encode_answer(self, text: str, *, after: str = ":", ends: bool = False) -> tuple[int, ...]:  # noqa: ARG002
        """By itself, as the base was trained: no space before it, and always with its end, labels too."""
        ids = self.token_ids(text.strip())
        return (*ids, *self._checkpoint.end_ids[:1]) if ids or ends else ()

    @cached_property
    def _ends(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What the tokenizer puts before and after every text."""
        tokenizer = self._checkpoint.tokenizer
        ids = tuple(tokenizer("")["input_ids"])
        size = sum(i in (tokenizer.bos_token_id, tokenizer.cls_token_id) for i in ids[:1])
        return ids[:size], ids[size:]

    @cached_property
    def _start_ids(self) -> tuple[int, ...]:
        """What the decoder begins with: the token that starts it, and the one that begins every text if any does."""
        return (*self._checkpoint.start_ids, *self._ends[0])

    # --- passes ---

    def _read(self, rows: Sequence[Row], weights: Weights | None) -> tuple[Memory, Layout]:
        """One pass of the encoder, and where the texts stand in it."""
        prompts, prefixes = ([getattr(row.adapter, part) for row in rows] for part in ("soft_prompt", "prefix"))
        layout = lay_out([r.encoding for r in rows], [0 if p is None else p.length for p in prompts], self.pad_id)
        embeds_BLD, mask_BL = self._embed(layout.ids_BL.to(self._device), weights), layout.mask_BL.to(self._device)
        made = {id(p): p.vectors_PD for p in prompts if p is not None}
        if made:
            vectors_ND = torch.cat([made[id(p)].to(embeds_BLD) for p in prompts if p is not None])
            place = (layout.prompt_rows_N.to(self._device), layout.prompt_columns_N.to(self._device))
            embeds_BLD = embeds_BLD.index_put(place, vectors_ND)
        cache = attention.prefix_cache(prefixes, self.prefix_shape, embeds_BLD)
        inputs = {"inputs_embeds": embeds_BLD, "attention_mask": mask_BL, "prefix": cache}
        loras = [row.adapter.update for row in rows]
        hidden_BLD = self._run("encoder", inputs, loras, weights)
        return Memory(hidden_BLD=hidden_BLD, mask_BL=mask_BL, loras=loras, weights=weights), layout

    def _answer(
        self,
        ids_BT: Tensor,
        memory: Memory,
        *,
        past: EncoderDecoderCache | None = None,
        tree: attention.Branching | None = None,
    ) -> Tensor:
        """One pass of the decoder: last hidden states [B, T, D], as the language model's head takes them."""
        inputs = {
            "inputs_embeds": self._embed(ids_BT, memory.weights),
            "encoder_hidden_states": memory.hidden_BLD,
            "encoder_attention_mask": memory.mask_BL,
            "past_key_values": past,
            "use_cache": past is not None,
            "tree": tree,
        }
        with self._at_depths(tree):
            hidden_BTD = self._run("decoder", inputs, memory.loras, memory.weights)
        scales = getattr(self._checkpoint.config, "scale_decoder_outputs", False)
        return hidden_BTD * self.width**-0.5 if scales else hidden_BTD

    def _run(
        self,
        name: Literal["encoder", "decoder"],
        inputs: Mapping[str, Any],
        loras: Sequence[Update | None],
        weights: Weights | None,
    ) -> Tensor:
        own, start = self._own_values(weights), f"{name}."
        values = {key.removeprefix(start): value for key, value in own.items() if key.startswith(start)}
        stack, again = self._model.get_submodule(name), partial(self._updated, loras)
        layers = next(list(child) for child in stack.children() if isinstance(child, nn.ModuleList))
        with again(), recomputed(layers, again):
            output = functional_call(stack, values, (), dict(inputs))
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _embed(self, ids_BL: Tensor, weights: Weights | None) -> Tensor:
        """Word embeddings as they enter a stack: [B, L, D]."""
        table = self._model.get_input_embeddings().weight  # type: ignore[operator]
        embeds_BLD = nn.functional.embedding(ids_BL, table)
        if weights is not None:
            embeds_BLD = weights.look_up(ids_BL, embeds_BLD)
        return embeds_BLD * self.embedding_scale

    def _at_depths(self, tree: attention.Branching | None) -> Any:
        """Within the context, positions that are learned are those of the nodes' depths."""
        return attention.positions_of(getattr(self._model.decoder, "embed_positions", None), tree)

    def _one_pass(self, rows: Sequence[Row], weights: Weights | None) -> Tensor:
        memory, layout = self._read(rows, weights)
        return layout.mean(memory.hidden_BLD)

    # --- answers ---

    def answer_log_probs(self, rows: Sequence[Row], answers: Sequence[tuple[int, ...]]) -> list[Tensor]:
        head, start = self.head(), self._start_ids

        def one_pass(members: Sequence[int], weights: Weights | None) -> Sequence[Tensor]:
            memory, _ = self._read([rows[k] for k in members], weights)
            lengths = [len(answers[k]) for k in members]
            hidden_BTD = self._answer(self._padded([(*start, *answers[k][:-1]) for k in members]), memory)
            read = [hidden_TD[len(start) - 1 :][:size] for hidden_TD, size in zip(hidden_BTD, lengths, strict=True)]
            tokens_M = [token for k in members for token in answers[k]]
            log_probs_M = head.log_probs(torch.cat(read), range(len(tokens_M)), tokens_M, weights)
            return list(log_probs_M.split(lengths))

        return self.by_pass(rows, one_pass)

    def _padded(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Ids [B, T], padded on the right, where causal attention sees none of it."""
        longest = max(map(len, texts))
        return torch.tensor([[*ids, *[self.pad_id] * (longest - len(ids))] for ids in texts], device=self._device)

    def _scored(
        self,
        rows: Sequence[Row],
        trees: Sequence[Tree],
        weights: Weights | None,
        *,
        normalised: bool,  # noqa: ARG002
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores are normalised in any case: of answers that end none has a single token."""
        head, start = self.head(), self._start_ids
        memory, layout = self._read(rows, weights)
        features_RD = layout.mean(memory.hidden_BLD)
        scores = [features_RD.new_zeros(0)] * len(rows)
        for members in _batches(trees, len(start)):
            mine = [trees[k] for k in members]
            branching = attention.branching(mine, len(start), memory.hidden_BLD)
            ids_BT = self._padded([(*start, *tree.tokens) for tree in mine])
            hidden_BTD = self._answer(ids_BT, memory.of(members), tree=branching)
            root = len(start) - 1
            nodes = [hidden_TD[root + 1 :][: len(t.tokens)] for hidden_TD, t in zip(hidden_BTD, mine, strict=True)]
            hidden_MD = torch.cat([hidden_BTD[:, root], *nodes])
            found = tree_scores(head, hidden_MD, mine, weights, normalised=True)
            for k, scores_C in zip(members, found, strict=True):
                scores[k] = scores_C
        return features_RD, scores

    def generate(
        self,
        rows: Sequence[Row],
        generators: Sequence[torch.Generator] | None = None,
        *,
        decoding: Decoding | None = None,
        most_rows: int = GENERATED_ROWS,
    ) -> list[Generation]:
        requests = self._requests(rows, generators, decoding)
        found: dict[object, list[Emitted]] = {request.id: [] for request in requests}
        for members in self._passes(rows):
            order = sorted(members, key=lambda k: len(rows[k].encoding.ids))
            for start in range(0, len(order), most_rows):
                for emitted in self._written([requests[k] for k in order[start : start + most_rows]]):
                    found[emitted.id].append(emitted)
        return [whole(found[k]) for k in range(len(rows))]

    @torch.no_grad()
    def _written(self, requests: Sequence[Request]) -> Iterator[Emitted]:
        """Tokens of rows that run together; who has finished leaves."""
        head, weights = self.head(), requests[0].row.adapter.weights
        memory, _ = self._read([request.row for request in requests], weights)
        past = EncoderDecoderCache(DynamicCache(), DynamicCache())
        answering, ids_BT = (
            [self._answering(request) for request in requests],
            self._padded([self._start_ids] * len(requests)),
        )
        while True:
            hidden_BTD = self._answer(ids_BT, memory, past=past)
            told = choose(answering, head.logits(hidden_BTD[:, -1], weights))
            yield from told
            stay = [k for k, emitted in enumerate(told) if emitted.finish_reason is None]
            if not stay:
                return
            if len(stay) < len(answering):
                answering, memory = [answering[k] for k in stay], memory.of(stay)
                past.batch_select_indices(torch.tensor(stay, device=self._device))
            ids_BT = self._padded([a.written.ids[-1:] for a in answering])

    def _answering(self, request: Request) -> Answering:
        room = min(request.decoding.max_new_tokens, self.max_tokens - len(self._start_ids))
        return Answering(
            request=request, written=Written(self.tokenizer, self.end_ids, request.decoding.stop), room=room
        )


def _batches(trees: Sequence[Tree], start: int) -> Iterator[list[int]]:
    """Indices of the trees with candidates, so many tokens at a time."""
    batch, widest = list[int](), 0
    for k, tree in enumerate(trees):
        if not tree.paths:
            continue
        widest = max(widest, start + len(tree.tokens))
        if batch and (len(batch) + 1) * widest > _BRANCH_TOKENS:
            yield batch
            batch, widest = [], start + len(tree.tokens)
        batch.append(k)
    if batch:
        yield batch
