"""A row that is ready to run: tokenised for its adapter, beside its base."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.backbone import Backbone
from tunewright.backbones.base import Encoding, Row
from tunewright.backbones.prefixed import fixed_text
from tunewright.data.chats import spoken
from tunewright.errors import ConfigError, DataError, TunewrightError, VectorStoreError
from tunewright.serve.ask import Ask, Event, Usage
from tunewright.serve.faults import Fault


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """A row, its adapter and its base."""

    ask: Ask
    row: Row
    backbone: Backbone

    @property
    def is_packed(self) -> bool:
        """Whether rows of its base run without padding, behind prefixes that are kept."""
        return self.backbone.kept_values > 0

    @property
    def num_tokens(self) -> int:
        """Positions it takes in a pass."""
        return len(self.row.encoding.ids) + (0 if self.is_packed else self.row.adapter.prefix_tokens)


def writes(ask: Ask, adapter: Adapter) -> bool:
    """Whether a row is answered token by token."""
    return ask.wants == "answer" and adapter.writes_text


def usage_of(work: Work) -> Usage:
    """Its tokens."""
    adapter, encoding = work.row.adapter, work.row.encoding
    prefix = adapter.prefix_tokens + len(work.backbone.fixed_ids(fixed_text(adapter)))
    kept = prefix if work.is_packed else 0
    return Usage(text_tokens=len(encoding.ids), prefix_tokens=prefix, num_cut=encoding.num_cut, kept_tokens=kept)


def prepare(backbone: Backbone, asked: Sequence[tuple[Ask, Adapter]], told: list[tuple[Ask, Event]]) -> list[Work]:
    """The rows, tokenised together; those that do not fit their task are told at once."""
    work: list[Work] = []
    asked = [(ask, adapter) for ask, adapter in asked if _comes_whole(ask, adapter, told)]
    for paired in (False, True):
        some = [(ask, adapter) for ask, adapter in asked if (ask.example.text_pair is not None) == paired]
        for (ask, adapter), encoding in zip(some, _encodings(backbone, some), strict=True):
            try:
                if isinstance(encoding, ConfigError):
                    raise Fault(400, "context_length_exceeded", f"task {ask.served.task} has no room: {encoding}")
                if isinstance(encoding, TunewrightError):
                    raise encoding
                _check(ask, adapter, encoding)
                work.append(Work(ask=ask, row=Row(encoding=encoding, adapter=adapter), backbone=backbone))
            except (Fault, DataError, VectorStoreError) as error:
                told.append((ask, error))
    return work


def _comes_whole(ask: Ask, adapter: Adapter, told: list[tuple[Ask, Event]]) -> bool:
    """Whether a row has just the columns that its task's template shows, and as many candidates; told where not."""
    count, num = 0 if adapter.candidates is None else len(adapter.labels), len(ask.example.choices)
    if num != count or len(set(ask.example.choices)) < num:
        needs = f"chooses among {count}: give as many different texts" if count else "takes none"
        message = f"task {ask.served.task} {needs} in `choices`. Got {num}."
        told.append((ask, Fault(400, "wrong_choices", message, param="choices")))
        return False
    wanted, got = sorted(adapter.columns), sorted(ask.example.fields)
    if wanted == got:
        return True
    names = ", ".join(f"`{name}`" for name in wanted)
    needs = f"shows {names} beside the text: give just these in `fields`" if wanted else "takes no `fields`"
    message = f"task {ask.served.task} {needs}. Got {', '.join(got) or 'none'}."
    told.append((ask, Fault(400, "wrong_fields", message, param="fields")))
    return False


def _encodings(backbone: Backbone, asked: Sequence[tuple[Ask, Adapter]]) -> list[Encoding | TunewrightError]:
    # Most texts are short, and bare: all are tokenised at once, and again those that share their room with words around
    # them, with an answer or with candidates.
    bare = [replace(spoken(ask.example, adapter.about), choices=()) for ask, adapter in asked]
    try:
        found = backbone.encode(bare, backbone.max_tokens)
    except DataError as error:  # a model's chat template refuses a row
        return [error] if len(asked) == 1 else [_encodings(backbone, [each])[0] for each in asked]
    return [
        encoding
        if not (adapter.frames_rows or adapter.writes_text or adapter.candidates is not None)
        and len(encoding.ids) <= adapter.max_tokens - adapter.prefix_tokens
        else _framed(backbone, ask, adapter)
        for (ask, adapter), encoding in zip(asked, found, strict=True)
    ]


def _framed(backbone: Backbone, ask: Ask, adapter: Adapter) -> Encoding | TunewrightError:
    """Room for an answer in text is left where the request says how long it may be."""
    said = None if ask.sampling is None or not writes(ask, adapter) else ask.sampling.max_new_tokens
    try:
        return backbone.encode_for([spoken(ask.example, adapter.about)], adapter, 0 if said is None else said)[0]
    except (ConfigError, DataError, VectorStoreError) as error:
        return error


def _check(ask: Ask, adapter: Adapter, encoding: Encoding) -> None:
    """Raises Fault where the row does not fit its task."""
    if ask.sampling is not None and ask.sampling.num_top > 0 and writes(ask, adapter):
        message = "a task that writes tells no alternatives to its tokens: leave `top_logprobs` out, or 0."
        raise Fault(400, "no_alternatives", message, param="top_logprobs")
    columns = adapter.about.get("columns")
    if columns is not None and ("text_pair" in columns) != (ask.example.text_pair is not None):
        wanted = "two texts" if "text_pair" in columns else "one text, not two"
        raise Fault(400, "wrong_number_of_texts", f"task {ask.served.task} takes {wanted}.", param="text_pair")
    if encoding.num_cut and not ask.may_cut:
        most, got = len(encoding.ids), len(encoding.ids) + encoding.num_cut
        message = f"a text of task {ask.served.task} has at most {most} tokens. Got {got}. Shorten it."
        raise Fault(400, "context_length_exceeded", message)
