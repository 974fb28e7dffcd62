"""Chain of thought: the base writes its reasoning before its answer (Wei et al. 2022; Kojima et al. 2022).

Labels are chosen among all behind the reasoning; of texts the answer is what follows a cue. Of several drawn reasonings
the answer that most of them come to counts (Wang et al. 2023).
"""

from dataclasses import replace

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.parts import Decoding, Reasoning
from tunewright.data.labels import in_words
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.prompting import asking, prompts, shown, templates
from tunewright.prompts.template import Prompt, demonstration
from tunewright.types import Example, Params

CUE = "The answer is"

LEADS = {"none": "", "steps": "Let's think step by step.", "explain": "First explain, then say: The answer is ..."}
"""Name -> what is said between a row and its reasoning; `steps` is of Kojima et al. 2022, section 3."""

_TEMPERATURE = 0.7
"""Of several samples (Wang et al. 2023, section 3.1)."""

_USUAL, _ASKED = 0.95, 500
"""Share of the known reasonings that fit in what may be written, and rows that tell."""

_MOST_TOKENS, _SHARE = 128, 0.25
"""Of a reasoning of which nothing is known: at most, and of the context; half of the context where something is."""

_SHORT = 0.125
"""Share of the context that a lead may take."""


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """A prompt with a lead and, where reasoning is known, training rows that show theirs."""
    prompt, lead = prompts(material)[str(params["template"])], LEADS[str(params["lead"])]
    if lead:
        prompt = replace(prompt, row=f"{prompt.row.rstrip()} {lead}")
    most, samples = _max_tokens(material), int(params["samples"])
    known = material.part([k for k, row in enumerate(material.examples) if row.reasoning is not None])
    count = int(params.get("shots", 0))
    prompt, rows = shown(known, prompt, count, rng, taken_tokens=most, show=_demonstrated)
    ends = bool(rows) and not any("\n\n" in str(row.reasoning) for row in rows)
    decoding = Decoding(
        max_new_tokens=most,
        temperature=_TEMPERATURE if samples > 1 else 0.0,
        stop=("\n\n",) if ends else (),
        samples=samples,
    )
    reasoning = Reasoning(cue=CUE, full_stop=any(str(row.target).endswith(".") for row in material.examples))
    return material.adapter(**{**asking(material, prompt), "decoding": decoding, "reasoning": reasoning})


def _demonstrated(prompt: Prompt, example: Example) -> str:
    """A training row with its reasoning and answer."""
    return demonstration(prompt.show(example), _reasoned(example))


def _reasoned(example: Example) -> str:
    answer = in_words(str(example.label)) if example.target is None else example.target
    return f"{example.reasoning} {CUE} {answer.removesuffix('.')}."


def _max_tokens(material: Material) -> int:
    """What may be written: as much as known reasonings have, cut where the context is short."""
    known = [_reasoned(row) for row in material.examples[:_ASKED] if row.reasoning is not None]
    room = material.context_tokens - len(material.backbone.token_ids(CUE))
    if not known:
        return max(1, min(_MOST_TOKENS, int(_SHARE * room)))
    usual = float(np.quantile([len(material.backbone.token_ids(each)) for each in known], _USUAL))
    return max(1, min(round(usual), room // 2))


def space(material: Material) -> Space:
    """What is asked and said, how many rows show their reasoning, and how many samples vote."""
    num_known = sum(row.reasoning is not None for row in material.examples)
    shots = {"shots": Choice(options=tuple(k for k in (4, 8, 2) if k <= num_known) or (1,))} if num_known else {}
    room = _SHORT * material.context_tokens
    leads = [name for name, lead in LEADS.items() if lead and len(material.backbone.token_ids(lead)) <= room]
    return {
        "template": templates(material),
        "lead": Choice(options=tuple(["none", *leads] if num_known else leads) or ("none",)),
        **shots,
        "samples": Choice(options=(1, 5, 3)),
    }


METHOD = Method(
    name="chain-of-thought",
    family="no training",
    summary="Lets the base write its reasoning before its answer; several drawn ones vote.",
    trains="nothing; training rows with reasoning are shown where there are any (--reasoning)",
    serves="the tokens of each reasoning, for each sample",
    place=place,
    space=space,
    refuses=lambda base: (
        None if base.reasons else f"{base.identity.name} writes no reasoning; give a decoder with --model"
    ),
    by_words=True,
    kinds=("classify", "generate"),
    uses="reasoning",
)
