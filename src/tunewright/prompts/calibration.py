"""Zero points: constants that make labels as likely as they should be before a text is read.

Shapes: N rows, K texts without content, C labels.
"""

import torch
from torch import Tensor


def zero_points(logits_NC: Tensor, shares_C: Tensor, num_rounds: int = 50, *, apart: bool = False) -> Tensor:
    """Bias per label under which the mean probabilities of the rows equal the given shares.

    Fixed-point iteration on log shares; the texts' labels are not used.

    Args:
        logits_NC: Of the training texts.
        shares_C: Wanted mean probability of each label.
        num_rounds: Of the iteration.
        apart: Whether each label has a probability of its own, and not its part of one.
    """
    bias_C = torch.zeros_like(shares_C)
    for _ in range(num_rounds):
        biased_NC = logits_NC + bias_C
        mean_C = biased_NC.sigmoid().mean(0) if apart else biased_NC.softmax(-1).mean(0)
        bias_C = bias_C + shares_C.log() - (mean_C + 1e-9).log()
    return bias_C


def content_free_points(logits_KC: Tensor) -> Tensor:
    """Minus the log of the mean probabilities that texts without content get (Zhao et al. 2021, section 5).

    With them a label's probability is divided by what it has where nothing is said, so that the answer is theirs.
    """
    return -logits_KC.softmax(-1).mean(0).log()


def domain_points(scores_C: Tensor) -> Tensor:
    """Minus the log-probabilities of the answers behind the prompt's own words alone.

    With them a score becomes domain conditional pointwise mutual information (Holtzman et al. 2021, section 2.1), here
    of a token on average.
    """
    return -scores_C
