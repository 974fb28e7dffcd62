"""Zero points give each label its share."""

import pytest
import torch

from tests import tiny
from tunewright.prompts.calibration import zero_points


@pytest.mark.parametrize("shares", [[0.25, 0.25, 0.5], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]])
def test_zero_points_give_the_shares(shares: list[float]) -> None:
    """Mean probabilities after the shift, within 1e-3; the order of a label's texts stays."""
    logits = tiny.normal(1, 200, 3, scale=2.0) + torch.tensor([3.0, 0.0, -2.0])
    bias = zero_points(logits, torch.tensor(shares))
    torch.testing.assert_close((logits + bias).softmax(-1).mean(0), torch.tensor(shares), atol=1e-3, rtol=0)
