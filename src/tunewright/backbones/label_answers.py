"""From what an endpoint answered to scores of labels: by the probabilities it tells, or by what it wrote.

Shapes: F phrases.
"""

import math
from collections.abc import Sequence

from tunewright.backbones.replies import Reply, Told
from tunewright.data.labels import in_words

READ = 0.95
"""Probability of the label that was read where no probabilities are told; the others share the rest."""

_LEAST = 1e-12
"""Of what is left beside the tokens that are told."""

_AROUND = " \t\n\r\"'`*_.,:;!?()[]"


def phrase_scores(reply: Reply, phrases: Sequence[str]) -> list[float]:
    """Log-probability of each phrase as the answer, [F]; all equal where nothing was told and none of them was read."""
    if reply.tokens:
        return told_scores(reply.tokens, phrases)
    read = read_phrase(reply.text, phrases)
    if read is None or len(phrases) == 1:
        return [0.0] * len(phrases)
    other = math.log((1 - READ) / (len(phrases) - 1))
    return [math.log(READ) if f == read else other for f in range(len(phrases))]


def read_phrase(text: str, phrases: Sequence[str]) -> int | None:
    """Which phrase a written answer is, to the letter but for case, white space and marks around it; None for none."""
    answer = _plain(text)
    return next((f for f, phrase in enumerate(phrases) if _plain(phrase) == answer), None)


def told_scores(tokens: Sequence[Told], phrases: Sequence[str]) -> list[float]:
    """Log-probability that the answer begins with each phrase, as far as the tokens that are told tell, [F].

    Along the tokens that were chosen a phrase goes on as long as they spell its beginning. Where it parts from them, it
    gets what the listed tokens that spell more of it have together; a token that spells the beginning of several
    phrases is shared by them alike. A phrase that none of them spells has at most the probability of the least likely
    listed token, and at most what is left beside all of them: the smaller of the two is what it gets.

    Args:
        tokens: Of the answer, each with its likeliest alternatives.
        phrases: That can be the answer.
    """
    scores = [-math.inf] * len(phrases)
    open_, begun, so_far = set(range(len(phrases))), "", 0.0
    unlisted = math.log(_LEAST)
    for token in tokens:
        options = {token.text: token.log_prob, **dict(token.top)}
        left = max(_LEAST, 1 - sum(map(math.exp, options.values())))
        unlisted = so_far + min(*options.values(), math.log(left))
        going_on = {f for f in open_ if _begins(begun + token.text, phrases[f])}
        shares = _shares(options, begun, {f: phrases[f] for f in open_ - going_on})
        for f, share in shares.items():
            scores[f] = so_far + math.log(share) if share > 0 else unlisted
        open_, begun, so_far = going_on, begun + token.text, so_far + token.log_prob
        if not open_:
            break
    for f in open_:  # the answer ended before they did
        scores[f] = unlisted
    return scores


def _shares(options: dict[str, float], begun: str, phrases: dict[int, str]) -> dict[int, float]:
    """Probability of each phrase by the tokens that spell it or more of it."""
    shares = dict.fromkeys(phrases, 0.0)
    for text, log_prob in options.items():
        spelled = begun + text
        members = [f for f, phrase in phrases.items() if _is_said(spelled, phrase)]
        members = members or [f for f, phrase in phrases.items() if _begins(spelled, phrase)]
        for f in members:
            shares[f] += math.exp(log_prob) / len(members)
    return shares


def _is_said(text: str, phrase: str) -> bool:
    """Whether a text is a phrase, marks around it left out, or goes on after it with another word."""
    answer, wanted = _plain(text), _plain(phrase)
    return answer.startswith(wanted) and not answer[len(wanted) : len(wanted) + 1].isalnum()


def _begins(text: str, phrase: str) -> bool:
    """Whether a text spells the beginning of a phrase and not yet all of it; white space and marks say nothing yet."""
    answer, wanted = _plain(text), _plain(phrase)
    return wanted.startswith(answer) and len(answer) < len(wanted)


def _plain(text: str) -> str:
    return in_words(text.strip(_AROUND)).casefold()
