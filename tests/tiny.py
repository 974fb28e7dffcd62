"""Tiny random models of every kind, each with a small real tokenizer, and a made-up task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import (
    Calibration,
    CopiedInput,
    Decoding,
    DemonstrationPool,
    Head,
    Lora,
    NearestTarget,
    Part,
    Prefix,
    Reasoning,
    SoftPrompt,
    Template,
    Thresholds,
    Verbalizer,
    Weights,
)
from tunewright.adapters.retriever import Retriever
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Base, Encoding, Row
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.decoder import Decoder
from tunewright.backbones.encoder import Encoder
from tunewright.backbones.kinds import open_backbone
from tunewright.backbones.masked import Masked
from tunewright.backbones.seq2seq import Seq2Seq
from tunewright.backbones.writer import Writer
from tunewright.types import Example, Task

WITH_PREFIX = ("bert", "roberta", "xlm-roberta", "electra", "modernbert", "distilbert")
"""Kinds whose code goes through transformers' attention interface."""

WITHOUT_PREFIX = ("deberta-v2", "mpnet")
KINDS = WITH_PREFIX + WITHOUT_PREFIX
DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "gpt_neox", "opt", "bloom")
"""Learned, rotary and ALiBi positions; grouped keys; sliding windows; bent scores."""

SEQ2SEQ = ("t5", "flan", "mt5", "bart")
"""Relative and learned positions; `flan` is T5 1.1, whose head is not its table of words."""

BUCKETS = 8
"""Of the distances that T5 tells apart."""

WORDPIECE = ("bert", "electra", "distilbert", "mpnet", "deberta-v2")
MASKED = tuple(
    f"masked-{kind}" for kind in ("bert", "roberta", "xlm-roberta", "electra", "modernbert", "distilbert", "mpnet")
)
"""With a head for masked words."""

MAX_TOKENS = 64
WINDOW = 8
"""ModernBERT's local attention: each token sees this many, half on each side."""

GROUPS = {
    "food": ["bread", "soup", "cheese", "apple", "rice", "salt", "cake", "dinner"],
    "travel": ["train", "ticket", "airport", "hotel", "map", "luggage", "road", "bridge"],
    "music": ["song", "piano", "violin", "drum", "choir", "melody", "concert", "rhythm"],
}
FILLERS = [
    "the",
    "a",
    "we",
    "had",
    "some",
    "good",
    "old",
    "new",
    "very",
    "with",
    "and",
    "for",
    "my",
    "one",
    "it",
    "was",
    "near",
    "today",
]
WORDS = [*FILLERS, *(word for group in GROUPS.values() for word in group)]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def backbone(folder: Path) -> Backbone:
    """The model saved in a folder, of whatever kind, in fp32 on the CPU."""
    return open_backbone(load_checkpoint(str(folder)), dtype=torch.float32, device=torch.device("cpu"))


def encoder(folder: Path, dtype: torch.dtype = torch.float32) -> Encoder:
    """The encoder saved in a folder, on the CPU."""
    return Encoder(load_checkpoint(str(folder)), dtype=dtype, device=torch.device("cpu"))


def masked(folder: Path, dtype: torch.dtype = torch.float32) -> Masked:
    """The masked language model saved in a folder, on the CPU."""
    return Masked(load_checkpoint(str(folder)), dtype=dtype, device=torch.device("cpu"))


def decoder(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder saved in a folder, on the CPU."""
    return Decoder(load_checkpoint(str(folder)), dtype=dtype, device=torch.device("cpu"))


def seq2seq(folder: Path, dtype: torch.dtype = torch.float32) -> Seq2Seq:
    """The encoder-decoder saved in a folder, on the CPU."""
    return Seq2Seq(load_checkpoint(str(folder)), dtype=dtype, device=torch.device("cpu"))


def build(kind: str, folder: Path) -> None:
    """Saves a random model of a kind with its tokenizer; the same values each time."""
    heads: dict[str, Any] = dict.fromkeys(DECODERS, transformers.AutoModelForCausalLM)
    heads |= dict.fromkeys(SEQ2SEQ, transformers.AutoModelForSeq2SeqLM)
    heads |= dict.fromkeys(MASKED, transformers.AutoModelForMaskedLM)
    auto, kind = heads.get(kind, transformers.AutoModel), kind.removeprefix("masked-")
    tokenizer = _tokenizer(kind)
    tokenizer.save_pretrained(folder)
    transformers.utils.logging.disable_progress_bar()
    model = auto.from_config(_config(kind, len(tokenizer), int(tokenizer.pad_token_id)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.25 * noise)
            else:
                parameter.add_(0.1 * noise)
    model.save_pretrained(folder)
    if kind == "flan":
        _set_untied(folder)


def _set_untied(folder: Path) -> None:
    """As Google's files say it; transformers forgets it when it saves."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["scale_decoder_outputs"]
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}), encoding="utf-8")


def _tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    if kind in ("t5", "flan", "mt5"):
        return _unigram()
    found = _wordpiece() if kind in WORDPIECE else _byte_pairs(with_ends=kind not in DECODERS)
    if kind == "bart":
        found.bos_token, found.eos_token = "<s>", "</s>"
    return found


def _config(kind: str, vocab_size: int, pad_id: int) -> transformers.PreTrainedConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    # RoBERTa and MPNet count positions from the padding index on.
    offset = 2 if kind in ("roberta", "xlm-roberta", "mpnet") else 0
    common = {"vocab_size": vocab_size, "max_position_embeddings": MAX_TOKENS + offset, "pad_token_id": pad_id}
    if kind in SEQ2SEQ:
        return _pair_config(kind, vocab_size, pad_id)
    own: dict[str, dict[str, object]] = {
        "bert": {"type_vocab_size": 2},
        "roberta": {"type_vocab_size": 1},
        "xlm-roberta": {"type_vocab_size": 1},
        "electra": {"embedding_size": 16},
        "modernbert": {
            "local_attention": WINDOW,
            "global_attn_every_n_layers": 3,
            **dict.fromkeys(("bos_token_id", "cls_token_id"), 0),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), 2),
        },
        "deberta-v2": {
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
        "mpnet": {},
        "distilbert": {"hidden_dim": 48},
        "gpt2": {"n_inner": 48},
        "llama": _GROUPED,
        "qwen2": {**_GROUPED, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": WINDOW},
        "qwen3": {**_GROUPED, "head_dim": 16},
        "mistral": {**_GROUPED, "sliding_window": WINDOW},
        "gemma2": {**_GROUPED, "head_dim": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 5.0},
        "gemma3_text": {**_GROUPED, "head_dim": 8, "sliding_window": WINDOW, "sliding_window_pattern": 2},
        "phi3": {**_GROUPED, "sliding_window": WINDOW},
        "gpt_neox": {"rotary_pct": 0.5},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
        "bloom": {},
    }
    return transformers.AutoConfig.for_model(kind, **shape, **common, **own[kind])


def _pair_config(kind: str, vocab_size: int, pad_id: int) -> transformers.PreTrainedConfig:
    """Three layers read and two write; heads wider together than the model in T5."""
    common: dict[str, object] = {"vocab_size": vocab_size, "d_model": 32, "pad_token_id": pad_id}
    if kind == "bart":
        heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
        inner = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 48)
        layers = {"encoder_layers": 3, "decoder_layers": 2}
        tokens = {"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
        pair: dict[str, object] = {"max_position_embeddings": MAX_TOKENS, "scale_embedding": True, **tokens}
        return transformers.AutoConfig.for_model(kind, **common, **heads, **inner, **layers, **pair)
    layers = {"num_layers": 3, "num_decoder_layers": 2, "n_positions": MAX_TOKENS, "decoder_start_token_id": pad_id}
    rest: dict[str, object] = {"d_kv": 10, "d_ff": 48, "num_heads": 4}
    if kind == "flan":
        rest |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    buckets = {"relative_attention_num_buckets": BUCKETS, "relative_attention_max_distance": 20}
    model_type = "t5" if kind == "flan" else kind
    return transformers.AutoConfig.for_model(model_type, **common, **layers, **rest, **buckets)


def _unigram() -> transformers.PreTrainedTokenizerFast:
    """As T5's: pieces with likelihoods, a mark for each space, and a token that ends every text."""
    special = ["<pad>", "</s>", "<unk>"]
    words = [f"\u2581{word}" for word in WORDS]
    pieces = [*special, "\u2581", *_LETTERS, *".,!?:0123456789", *words]
    scores = [0.0, 0.0, 0.0, -3.0, *[-8.0] * (len(pieces) - len(words) - 4), *[-5.0] * len(words)]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, model_max_length=MAX_TOKENS)


_GROUPED: dict[str, object] = {"num_key_value_heads": 2}


def _wordpiece() -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *_LETTERS, *(f"##{c}" for c in _LETTERS), *".,!?0123456789", *(w for w in WORDS if len(w) > 1)]
    vocabulary = {piece: k for k, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, mask_token="[MASK]", model_max_length=MAX_TOKENS
    )


def _byte_pairs(*, with_ends: bool) -> transformers.PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in WORDS[::2]:
        left = "\u0120"  # how byte-level BPE writes a space
        for letter in word:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
    pieces = list(dict.fromkeys([*pieces, *(left + right for left, right in merges)]))
    vocabulary = {piece: k for k, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if with_ends else "<s> $A",
        pair="<s> $A </s> </s> $B </s>" if with_ends else "<s> $A $B",
        special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])],
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    names |= {} if with_ends else {"bos_token": "<s>", "eos_token": "</s>"}
    mask = AddedToken("<mask>", lstrip=True, special=True)  # as RoBERTa's, which takes the space before it
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, mask_token=mask, model_max_length=MAX_TOKENS
    )


def task() -> Task:
    """Which of three topics a sentence is about."""
    labels = tuple(GROUPS)
    return Task(name="topics", labels=labels, descriptions={label: f"it is about {label}" for label in labels})


def examples(count: int, seed: int = 0) -> list[Example]:
    """Sentences of 3 to 10 words, a few of them of their topic; labels in turn."""
    rng = np.random.default_rng(seed)
    return [_example(k, rng) for k in range(count)]


def _example(k: int, rng: np.random.Generator) -> Example:
    label = list(GROUPS)[k % len(GROUPS)]
    words = [*rng.choice(GROUPS[label], size=2), *rng.choice(FILLERS, size=int(rng.integers(1, 9)))]
    return Example(id=f"train:{k + 1}", text=" ".join(rng.permutation(words).tolist()), label=label)


def encodings(base: Base, texts: list[str]) -> list[Encoding]:
    """Token ids of texts, not cut."""
    return base.encode([Example(id=text, text=text) for text in texts], base.max_tokens)


def rows(adapter: Adapter, found: list[Encoding]) -> list[Row]:
    """One row for each input, all of one adapter."""
    return [Row(encoding=e, adapter=adapter) for e in found]


def adapter(base: Backbone, **parts: Part) -> Adapter:
    """An adapter with a random head and the given parts."""
    found = {"head": head(base, seed=1)} | parts
    return Adapter(base=base.identity, labels=tuple(GROUPS), max_tokens=base.max_tokens, **found)  # type: ignore[arg-type]


def normal(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers from a seed of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def head(base: Backbone, seed: int) -> Head:
    return Head(weight_CD=normal(seed, 3, base.width, scale=0.3), bias_C=normal(seed + 1, 3))


def soft_prompt(base: Backbone, length: int, seed: int) -> SoftPrompt:
    width = base.masters()[base.vocabulary_name].shape[1]
    return SoftPrompt(vectors_PD=normal(seed, length, width, scale=0.5))


def prefix(base: Backbone, length: int, seed: int) -> Prefix:
    assert base.prefix_shape is not None
    num_layers, num_heads, width = base.prefix_shape
    shape = (num_layers, num_heads, length, width)
    return Prefix(keys_LHPd=normal(seed, *shape), values_LHPd=normal(seed + 1, *shape))


def lora(base: Backbone, rank: int, seed: int, alpha: float = 6.0) -> Lora:
    """A LoRA on all linear layers, B not zero."""
    linears: dict[str, nn.Linear] = base.linears
    return Lora(
        alpha=alpha,
        down={n: normal(seed + k, rank, m.in_features, scale=0.2) for k, (n, m) in enumerate(linears.items())},
        up={n: normal(seed - k, m.out_features, rank, scale=0.2) for k, (n, m) in enumerate(linears.items())},
    )


def weights(base: Backbone, seed: int, ids: list[int]) -> Weights:
    """New values for everything; of the word embeddings those of the given ids."""
    values = {n: v + normal(seed + k, *v.shape, scale=0.05) for k, (n, v) in enumerate(base.masters().items())}
    ids_V = torch.tensor(sorted(set(ids)))
    values[base.vocabulary_name] = values[base.vocabulary_name][ids_V].contiguous()
    return Weights(values=values, vocabulary=base.vocabulary_name, vocabulary_ids_V=ids_V)


def every_part(base: Backbone) -> Adapter:
    """An adapter that has everything an adapter of this base can have."""
    pool = DemonstrationPool(
        texts=("bread", "train", "choir \u266b"),
        labels_N=torch.tensor([0, 1, 2]),
        vectors_ND=normal(4, 3, base.width),
        num_neighbours=2,
        temperature=0.1,
    )
    return adapter(
        base,
        **(asking_parts(base) if isinstance(base, Writer) else {}),
        soft_prompt=soft_prompt(base, 5, seed=1),
        prefix=prefix(base, 4, seed=2),
        lora=lora(base, 2, seed=100, alpha=16),
        weights=weights(base, 300, [0, 3, 7, 50]),
        verbalizer=Verbalizer(phrases=(("food", "a m\u00e9al"), ("travel",), ("music", "song")), scale=20),
        demonstrations=pool,
        calibration=Calibration(bias_C=torch.tensor([0.5, 0.0, -0.5]), temperature=1.5),
        thresholds=Thresholds(logits_C=torch.tensor([0.1, -0.2, 0.3])),
        copied_input=CopiedInput(),
        nearest_target=NearestTarget(texts=("bread", "soup"), targets=("salt", "cake")),
        decoding=Decoding(max_new_tokens=7, temperature=0.5, top_p=0.9, stop=("\n", "and"), samples=2),
        **({"reasoning": Reasoning(cue="so it was")} if isinstance(base, Decoder) else {}),
    )


def asking_parts(base: Writer) -> dict[str, Any]:
    """What stands around a row, and before it."""
    shown = Retriever(
        texts=("soup", "train"), shown=("soup food\n", "train travel\n"), num_shown=1,
        vectors_ND=normal(7, 2, base.width),
    )  # fmt: skip
    return {"template": Template(fixed="old and new\n", row="it: {text}\nwas"), "retriever": shown}


def set_pooling(folder: Path, mode: str) -> None:
    """Writes sentence-transformers' pooling file."""
    (folder / "1_Pooling").mkdir()
    content = {"pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(content), encoding="utf-8")


def as_examples(texts: list[str]) -> list[Example]:
    """Texts as rows without a label."""
    return [Example(id=text, text=text) for text in texts]
