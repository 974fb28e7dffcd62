"""Every row once an epoch, neighbours of similar length, in an order that the seed decides."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunewright.training.batching import epoch_batches, micro_batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 17), st.integers(0, 9))
def test_a_partition(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = epoch_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(k for batch in batches for k in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-len(lengths) // batch_size)


def test_seeds_decide() -> None:
    lengths = np.random.default_rng(0).integers(5, 60, size=1000).tolist()
    first, again, other = (epoch_batches(lengths, 16, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first != other
    rng = np.random.default_rng(1)
    assert epoch_batches(lengths, 16, rng) != epoch_batches(lengths, 16, rng), "epochs must differ"


def test_little_padding_and_no_order() -> None:
    """At most a fifth of the padding of random batches; and long batches do not come together."""
    lengths = np.random.default_rng(0).integers(5, 60, size=1000).tolist()

    def padding(batches: list[list[int]]) -> int:
        return sum(max(lengths[k] for k in b) * len(b) - sum(lengths[k] for k in b) for b in batches)

    order = np.random.default_rng(1).permutation(1000).tolist()
    shuffled = [order[k : k + 16] for k in range(0, 1000, 16)]
    batches = epoch_batches(lengths, 16, np.random.default_rng(1))
    assert padding(batches) < padding(shuffled) / 5
    means = [float(np.mean([lengths[k] for k in b])) for b in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.4


@given(st.integers(1, 40), st.integers(1, 64))
def test_micro_batches(size: int, num_parts: int) -> None:
    batch = list(range(100, 100 + size))
    parts = micro_batches(batch, num_parts)
    assert [k for part in parts for k in part] == batch
    assert all(parts)
    assert len(parts) <= num_parts
    assert max(map(len, parts)) == -(-size // num_parts)
