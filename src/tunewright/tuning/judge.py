"""A model as the judge of two answers: the likelier of the words A and B under a question."""

from collections.abc import Sequence

import torch

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Template, Verbalizer
from tunewright.backbones.checkpoint import load_checkpoint
from tunewright.backbones.inference import FeatureStore, predict
from tunewright.backbones.kinds import open_backbone
from tunewright.config import REMOTE
from tunewright.errors import ConfigError
from tunewright.methods.prompting import fitted
from tunewright.prompts.template import Prompt
from tunewright.runs.judgements import Choice
from tunewright.runtime import device, fast_dtype
from tunewright.types import Example

_QUESTION = Prompt(
    fixed="Which of two answers to the input is better, A or B?\n\n", row="{text}\n\nThe better answer is"
)
_PAIR = "Input: {text}\n\nAnswer A: {first}\n\nAnswer B: {second}"


class Judge:
    """Asks a base that writes.

    Args:
        model: Name or folder of the base.

    Raises:
        ModelError: It cannot be loaded.
        ConfigError: It writes no text, or answers elsewhere, where judging would cost without a limit.
    """

    def __init__(self, model: str) -> None:
        refused = ConfigError(f"`judge` must be a model here that writes text. Got {model!r}. Give a decoder.")
        if model.startswith(REMOTE):
            raise refused
        base = open_backbone(load_checkpoint(model), dtype=fast_dtype(), device=device())
        if not base.writes:
            raise refused
        prompt = fitted(_QUESTION, base)
        self._store = FeatureStore(base, keeps=False)
        self._adapter = Adapter(
            base=base.identity,
            labels=("A", "B"),
            max_tokens=base.max_tokens,
            template=Template.of(prompt),
            verbalizer=Verbalizer(phrases=(("A",), ("B",)), scale=1.0),
        )

    def __call__(self, asked: Sequence[tuple[str, str, str]]) -> list[Choice | None]:
        """Its choice for each input with two answers, tie where both are as likely; None where they do not fit."""
        texts = [_PAIR.format(text=text, first=first, second=second) for text, first, second in asked]
        examples = [Example(id=str(k), text=text) for k, text in enumerate(texts)]
        encodings = self._store.backbone.encode_for(examples, self._adapter)
        logits_NC = predict(self._adapter, encodings, self._store)
        leads_N = torch.sign(logits_NC[:, 0] - logits_NC[:, 1]).int().tolist()
        choices: dict[int, Choice] = {1: "A", -1: "B", 0: "tie"}
        return [None if e.num_cut else choices[lead] for e, lead in zip(encodings, leads_N, strict=True)]
