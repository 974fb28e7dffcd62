"""The text of an answer while its tokens come."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

_UNFINISHED = "\ufffd"
"""What tokenizers write for bytes of a character whose other bytes are to come."""


class Written:
    """Tokens and text of one answer.

    Args:
        tokenizer: The base's own.
        end_ids: Tokens that end an answer and are no part of its text.
        stops: Texts that do.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, end_ids: Sequence[int], stops: Sequence[str]) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._end_ids, self._stops = tokenizer, set(end_ids), stops
        self._from, self._until = 0, 0
        """Tokens of the last piece of text: a piece is read with the one before it, which says where spaces go."""
        self._held = ""
        """Read, but a stop text may have begun in it."""

    def add(self, token: int, *, last: bool) -> tuple[str, bool]:
        """Takes one more token.

        Args:
            token: Its id.
            last: Whether no other will come.

        Returns:
            The text that is sure now and was not before, and whether the answer has ended.
        """
        self.ids.append(token)
        ended = token in self._end_ids
        text = self._held + self._read(len(self.ids) - ended, whole=last or ended)
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        sure = len(text) if last or ended else len(text) - self._begun(text)
        self._held = text[sure:]
        return text[:sure], ended

    def _read(self, end: int, *, whole: bool) -> str:
        """Text of the tokens that have not been read; nothing while a character is unfinished, unless it stays so."""
        before, now = (self._decoded(self.ids[self._from : k]) for k in (self._until, end))
        if now.endswith(_UNFINISHED) and not whole:
            return ""
        self._from, self._until = self._until, end
        return now[len(before) :]

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _begun(self, text: str) -> int:
        """Characters at the end of a text that a stop text may begin with."""
        sizes = (size for stop in self._stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
        return max(sizes, default=0)
