"""Which rows run together: padding costs work, and so does each pass."""

from collections.abc import Sequence

from tunewright.backbones.tokens import BATCH_TOKENS

PASS_TOKENS = 48
"""What a pass costs beside its tokens, in tokens: measured with MiniLM on a CPU."""


def split_by_length(
    lengths: Sequence[int], *, pass_tokens: int = PASS_TOKENS, batch_tokens: int = BATCH_TOKENS
) -> list[list[int]]:
    """Indices in the passes that cost least, each row as long as the longest of its pass; longest first.

    Rows of neighbouring lengths share a pass, so the cheapest split is found exactly by dynamic programming: `cost[k]`
    is the least cost of the first k rows.

    Args:
        lengths: Tokens of each row.
        pass_tokens: Cost of a pass beside its tokens.
        batch_tokens: Most tokens of a pass, padding included; a longer single row runs alone.
    """
    order = sorted(range(len(lengths)), key=lambda k: -lengths[k])
    cost, begin = [0.0], [0]
    for end in range(1, len(order) + 1):
        options = []
        for start in range(end - 1, -1, -1):
            padded = (end - start) * lengths[order[start]]
            if padded > batch_tokens and end - start > 1:
                break
            options.append((cost[start] + pass_tokens + padded, start))
        least, first = min(options)
        cost.append(least)
        begin.append(first)
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.append(order[begin[end] : end])
        end = begin[end]
    return passes[::-1]
