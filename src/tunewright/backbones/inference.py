"""Running many rows without gradients: batches by length, features of the bare base computed once.

Shapes: N rows, D width, C labels, W words.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress

import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Thresholds, voted
from tunewright.backbones.base import Base, Encoding, Row, member_rows, row_generator
from tunewright.backbones.tokens import by_length
from tunewright.types import BETWEEN_LABELS, Example, Prediction, whole_text


def _run(run: Callable[[list[int]], Tensor], lengths: Sequence[int], width: int, store: "FeatureStore") -> Tensor:
    result = torch.zeros(len(lengths), width)
    with torch.no_grad():
        for members in store.batches(lengths):
            store.between()
            result[members] = run(members).float().cpu()
    return result


class FeatureStore:
    """Features of a bare base, computed once per input and kept for every method that needs only them.

    Args:
        backbone: The base.
        keeps: Whether features outlive the call; a service that hears ever new texts would fill its memory.
        between: Called before each batch of any pass over this base; what it raises ends the pass.
    """

    def __init__(self, backbone: Base, *, keeps: bool = True, between: Callable[[], None] = lambda: None) -> None:
        self.backbone = backbone
        self.between = between
        backbone.between = self._beat
        self._keeps = keeps
        self._bare = Adapter(base=backbone.identity, labels=(), max_tokens=backbone.max_tokens)
        self._known: dict[Encoding, Tensor] = {}

    def _beat(self) -> None:
        self.between()

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows that run together, by their tokens."""
        most = self.backbone.batch_tokens
        return by_length(lengths) if most is None else by_length(lengths, most)

    def __call__(self, encodings: Sequence[Encoding]) -> Tensor:
        """Features, fp32 [N, D]; [N, C D] of rows with C candidates each."""
        if encodings and encodings[0].members:
            return self([each for e in encodings for each in e.members]).reshape(len(encodings), -1)
        known = self._known if self._keeps else {}
        missing = list(dict.fromkeys(e for e in encodings if e not in known))
        rows = [Row(encoding=e, adapter=self._bare) for e in missing]
        lengths = [len(e.ids) for e in missing]
        width = self.backbone.width
        found = _run(lambda members: self.backbone.features([rows[k] for k in members]), lengths, width, self)
        known.update(zip(missing, found.unbind(), strict=True))
        if not encodings:
            return torch.zeros(0, self.backbone.width)
        return torch.stack([known[e] for e in encodings])


def readings(adapter: Adapter, encodings: Sequence[Encoding], store: FeatureStore) -> Tensor:
    """What every input's answer under the adapter is made of, fp32 [N, E]: features and scores of phrases."""
    if not adapter.has_body:
        return store(encodings)
    rows = [Row(encoding=e, adapter=adapter) for e in encodings]
    lengths = [len(e.ids) + adapter.prefix_tokens for e in encodings]
    backbone = store.backbone
    width = backbone.reading_width(adapter)

    def run(members: list[int]) -> Tensor:
        return torch.stack(backbone.readings([rows[k] for k in members]))

    return _run(run, lengths, width, store)


def word_scores(
    adapter: Adapter, encodings: Sequence[Encoding], candidates: Sequence[tuple[int, ...]], store: FeatureStore
) -> Tensor:
    """Mean log-probability per token of every candidate as each input's answer under the adapter, fp32 [N, W]."""
    rows, base = [Row(encoding=e, adapter=adapter) for e in encodings], store.backbone
    lengths = [len(e.ids) + adapter.prefix_tokens for e in encodings]

    def run(members: list[int]) -> Tensor:
        return base.scores([rows[k] for k in members], candidates)

    return _run(run, lengths, len(candidates), store)


def predict(adapter: Adapter, encodings: Sequence[Encoding], store: FeatureStore) -> Tensor:
    """Logits of every input under the adapter, fp32 [N, C]."""
    if not adapter.needs_features:
        found = torch.zeros(len(encodings), store.backbone.width)
    else:
        found = readings(adapter, encodings, store)
    with torch.no_grad():
        return store.backbone.answer(adapter, found).float().cpu()


def answer(adapter: Adapter, examples: Sequence[Example], store: FeatureStore) -> list[Prediction]:
    """Label and calibrated probabilities of every row, or its text; in order."""
    if adapter.writes_text:
        texts = write(adapter, examples, store)
        return [Prediction(id=e.id, text=text) for e, text in zip(examples, texts, strict=True)]
    encodings = store.backbone.encode_for(examples, adapter)
    logits_NC = predict(adapter, encodings, store)
    if adapter.thresholds is not None:
        return _sets(adapter, adapter.thresholds, examples, logits_NC)
    # The label is that of the logits themselves: a division may round two of them to one.
    probabilities_NC = (logits_NC.double() / adapter.temperature).softmax(-1)
    rows = zip(examples, logits_NC.argmax(-1).tolist(), probabilities_NC.tolist(), strict=True)
    return [Prediction(id=e.id, label=adapter.labels[k], probabilities=tuple(p)) for e, k, p in rows]


def _sets(adapter: Adapter, thresholds: Thresholds, examples: Sequence[Example], logits_NC: Tensor) -> list[Prediction]:
    """All labels above their thresholds, and how likely each is by itself."""
    is_given_NC, probabilities_NC = logits_NC > thresholds.logits_C.to(logits_NC), logits_NC.double().sigmoid()
    rows = zip(examples, is_given_NC.tolist(), probabilities_NC.tolist(), strict=True)
    return [
        Prediction(id=e.id, label=BETWEEN_LABELS.join(compress(adapter.labels, given)), probabilities=tuple(p))
        for e, given, p in rows
    ]


def write(adapter: Adapter, examples: Sequence[Example], store: FeatureStore) -> list[str]:
    """The text with which the adapter answers each row; in order."""
    store.between()
    if adapter.floor is not None:
        return adapter.floor.answers([whole_text(example) for example in examples])
    return generate_texts(adapter, store.backbone.encode_for(examples, adapter), store)


def writer(backbone: Base) -> Base:
    """The base as one that writes; methods that need that refuse any other before."""
    assert backbone.writes, "an encoder writes no text"
    return backbone


WRITTEN_ROWS = 64
"""Rows that are written at a time."""


def generate_texts(adapter: Adapter, encodings: Sequence[Encoding], store: FeatureStore) -> list[str]:
    """What the adapter answers every input, by its own decoding; draws do not hang on the neighbours.

    Of several members and samples it is what most of them come to; empty where nothing is an answer.
    """
    base, samples = writer(store.backbone), 1 if adapter.decoding is None else adapter.decoding.samples
    draws = adapter.decoding is not None and adapter.decoding.temperature > 0
    several = samples * len(adapter.each)
    texts = [[""] * several for _ in encodings]
    most = WRITTEN_ROWS if base.batch_tokens is None else max(1, several * len(encodings))
    for members in store.batches([len(e.ids) for e in encodings]):
        rows = {k: samples * member_rows(Row(encoding=encodings[k], adapter=adapter)) for k in members}
        jobs = [(k, s) for k in members for s in range(several)]
        for start in range(0, len(jobs), most):
            store.between()
            some = jobs[start : start + most]
            generators = [row_generator(encodings[k], s) for k, s in some] if draws else None
            for (k, s), found in zip(some, base.generate([rows[k][s] for k, s in some], generators), strict=True):
                texts[k][s] = adapter.answer_in(found.text)
    return [voted(each) for each in texts]


def answer_losses(
    adapter: Adapter, encodings: Sequence[Encoding], answers: Sequence[tuple[int, ...]], store: FeatureStore
) -> list[float]:
    """Cross entropy of each answer under the adapter in nats, summed over its tokens."""
    base, losses = writer(store.backbone), [0.0] * len(encodings)
    lengths = [len(e.ids) + len(ids) + adapter.prefix_tokens for e, ids in zip(encodings, answers, strict=True)]
    with torch.no_grad():
        for members in by_length(lengths):
            store.between()
            rows = [Row(encoding=encodings[k], adapter=adapter) for k in members]
            found = base.answer_log_probs(rows, [answers[k] for k in members])
            for k, log_probs in zip(members, found, strict=True):
                losses[k] = -float(log_probs.sum())
    return losses
