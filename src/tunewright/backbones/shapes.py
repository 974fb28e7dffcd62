"""Whether an adapter's tensors have the shapes of its base: one that has not would break the batch of others.

Shapes: P virtual tokens, D width, L layers, H heads, d head width, r rank, C labels, N pool rows.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from tunewright.adapters.adapter import Adapter
from tunewright.errors import AdapterError

Shape = tuple[int, ...]


class Base(Protocol):
    """What is looked at of a backbone."""

    @property
    def word_embeddings(self) -> Tensor: ...
    @property
    def prefix_shape(self) -> tuple[int, int, int] | None: ...
    @property
    def linears(self) -> Mapping[str, nn.Linear]: ...
    @property
    def width(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    def feature_width(self, adapter: Adapter) -> int: ...


def check_shapes(adapter: Adapter, backbone: Base) -> None:
    """Refuses an adapter that the base cannot run.

    Raises:
        AdapterError: With the first tensor that does not fit, its shape and the one it should have.
    """
    for name, got, wanted in (*_of_body(adapter, backbone), *_of_answers(adapter, backbone)):
        if got != wanted:
            raise AdapterError(f"{name} has shape {list(got)}, its base needs {list(wanted)}. Train the adapter again.")
    if not 0 < adapter.max_tokens <= backbone.max_tokens or adapter.prefix_tokens >= adapter.max_tokens:
        room = f"{adapter.max_tokens} tokens of which {adapter.prefix_tokens} are virtual"
        raise AdapterError(f"the adapter leaves no room for a text: {room}, the base takes {backbone.max_tokens}.")


def _of_body(adapter: Adapter, backbone: Base) -> Iterator[tuple[str, Shape, Shape]]:
    if adapter.soft_prompt is not None:
        vectors_PD = adapter.soft_prompt.vectors_PD
        yield "soft_prompt", tuple(vectors_PD.shape), (max(1, len(vectors_PD)), backbone.word_embeddings.shape[1])
    if adapter.prefix is not None and backbone.prefix_shape is not None:
        num_layers, num_heads, width = backbone.prefix_shape
        wanted = (num_layers, num_heads, max(1, adapter.prefix.length), width)
        for key, tensor in adapter.prefix.tensors().items():
            yield f"prefix.{key}", tuple(tensor.shape), wanted
    if adapter.retriever is not None and adapter.retriever.vectors_ND is not None:
        wanted_ND = (len(adapter.retriever.texts), backbone.width)
        yield "retriever.vectors", tuple(adapter.retriever.vectors_ND.shape), wanted_ND
    if adapter.lora is not None:
        for name in adapter.lora.down:
            linear, rank = backbone.linears[name], adapter.lora.rank
            yield f"lora.{name}.down", tuple(adapter.lora.down[name].shape), (rank, linear.in_features)
            yield f"lora.{name}.up", tuple(adapter.lora.up[name].shape), (linear.out_features, rank)


def _of_answers(adapter: Adapter, backbone: Base) -> Iterator[tuple[str, Shape, Shape]]:
    num_labels = len(adapter.labels)
    if adapter.head is not None:
        rows = 1 if adapter.pairs_choices else num_labels
        yield "head.weight", tuple(adapter.head.weight_CD.shape), (rows, backbone.feature_width(adapter))
        yield "head.bias", tuple(adapter.head.bias_C.shape), (rows,)
    if adapter.verbalizer is not None:
        yield "verbalizer", (len(adapter.verbalizer.phrases),), (num_labels,)
    if adapter.demonstrations is not None:
        pool = adapter.demonstrations
        yield (
            "demonstrations.vectors",
            tuple(pool.vectors_ND.shape),
            (len(pool.labels_N), backbone.feature_width(adapter)),
        )
    if adapter.calibration is not None and adapter.calibration.bias_C is not None:
        yield "calibration.bias", tuple(adapter.calibration.bias_C.shape), (num_labels,)
