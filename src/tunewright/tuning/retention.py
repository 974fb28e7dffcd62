"""What a base forgets: the rise of its loss on a reference text with an adapter attached, and with it taken off again.

Measured with the prompt attached, soft prompts disturb a base more than small LoRAs do; taken off they leave no trace,
as the base never changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tunewright.adapters.adapter import BODY_PARTS, Adapter
from tunewright.backbones.base import Base, Encoding, Row
from tunewright.errors import ConfigError
from tunewright.runs.measurements import Retention
from tunewright.runtime import quiet_libraries
from tunewright.tuning.progress import Clock, OutOfTime

_TOKENS = 8192
"""Of the reference text that are read, from its beginning."""
_PIECE_TOKENS = 256
"""What precedes a token in a piece is all that it is predicted from."""
_PIECES_AT_ONCE = 8


def read_reference(path: str | None) -> str | None:
    """The text that the user named.

    Raises:
        ConfigError: No such file, not UTF-8, or hardly a word in it.
    """
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"`retention` must be a text file in UTF-8. Got {path}: {error}.") from None
    if len(text.split()) < 2:
        raise ConfigError(f"`retention` must be a text of at least two words. Got {path} with {len(text)} characters.")
    return text


def retention(adapter: Adapter, text: str, backbone: Base, clock: Clock) -> Retention:
    """Mean loss per token of the bare base, its rise under the adapter, and its rise once that is taken off."""
    if not (backbone.is_causal and backbone.writes):
        return Retention(reason=f"{backbone.identity.name} is no decoder that writes: a text has no loss under it")
    bare = Adapter(base=backbone.identity, labels=(), max_tokens=adapter.max_tokens)
    attached = replace(bare, **{name: getattr(adapter, name) for name in BODY_PARTS})
    pieces = _pieces(text, backbone, adapter)
    try:
        before, under, after = (_loss(each, pieces, backbone, clock) for each in (bare, attached, bare))
    except OutOfTime:
        return Retention(reason="no time was left in the budget")
    return Retention(base=before, attached=under - before, detached=after - before, tokens=sum(map(len, pieces)))


def _pieces(text: str, backbone: Base, adapter: Adapter) -> list[tuple[int, ...]]:
    """The text's first tokens, cut so that every method's prompts leave room for a piece; the same for all of them."""
    with quiet_libraries():  # a tokenizer warns of texts that are longer than the base takes at once
        ids = tuple(backbone.token_ids(text)[:_TOKENS])
    size = min(_PIECE_TOKENS, adapter.max_tokens // 2)
    pieces = [ids[k : k + size] for k in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) > 1 or backbone.begin_ids]


def _loss(adapter: Adapter, pieces: Sequence[tuple[int, ...]], backbone: Base, clock: Clock) -> float:
    """Mean negative log-probability per token, nats."""
    total, count, begin = 0.0, 0, backbone.begin_ids
    for k in range(0, len(pieces), _PIECES_AT_ONCE):
        clock.check()
        some = pieces[k : k + _PIECES_AT_ONCE]
        inputs = [begin or piece[:1] for piece in some]
        answers = [piece if begin else piece[1:] for piece in some]
        encodings = [Encoding(ids=ids, type_ids=(0,) * len(ids)) for ids in inputs]
        with torch.no_grad():
            found = backbone.answer_log_probs([Row(encoding=e, adapter=adapter) for e in encodings], answers)
        total -= sum(float(log_probs.double().sum()) for log_probs in found)
        count += sum(map(len, answers))
    return total / count
