"""Prompt search: templates, instructions, demonstrations and zero points, by successive halving on training rows.

Of a pool of prompts the better half goes on to twice the rows, until one is left (Karnin et al. 2013, section 4). Rows
that judge are shown by none; dev rows take no part.

Shapes: N rows, C labels.
"""

from dataclasses import dataclass, replace

import numpy as np

from tunewright.adapters.adapter import Adapter
from tunewright.backbones.inference import answer_losses, generate_texts, predict, writer
from tunewright.methods.base import Choice, Material, Method, Space
from tunewright.methods.prompting import asking, calibrated, cannot_be_asked, fits, prompts, shown, templates
from tunewright.prompts.template import INSTRUCTIONS, Prompt, parse
from tunewright.training.loss import cross_entropy
from tunewright.types import Params

JUDGES = 256
"""Training rows that judge, at most; half of them where there are fewer."""

_SHOTS = (0, 2, 4, 8, 16)
_CALIBRATIONS = ("uniform", "contextual", "pmi", "none")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A prompt with its demonstrations, and how it is calibrated."""

    prompt: Prompt
    calibration: str

    def adapter(self, material: Material) -> Adapter:
        """On all rows of some material."""
        adapter = material.adapter(**asking(material, self.prompt))
        return calibrated(adapter, material, {"calibration": self.calibration if material.task.labels else "none"})


def search(material: Material, pool_size: int, rng: np.random.Generator) -> Contender:
    """The best of so many drawn prompts; see `best`."""
    return best(material, pool_size, rng, 1)[0]


def best(material: Material, pool_size: int, rng: np.random.Generator, count: int) -> list[Contender]:
    """The best of so many drawn prompts, the best first.

    Args:
        material: Training rows.
        pool_size: Prompts to draw.
        rng: Draws them, and the rows that judge.
        count: How many are left, if so many are drawn.
    """
    order = [int(k) for k in rng.permutation(len(material.examples))]
    most = max(1, min(JUDGES, len(order) // 2))
    judges, teachers = order[:most], material.part(order[most:] or order)
    pool = _drawn(teachers, pool_size, rng)
    num_rounds = max(1, (-(-len(pool) // count) - 1).bit_length())
    for left in reversed(range(num_rounds)):
        rows = material.part(judges[: max(1, most >> left)])
        merits = [merit(contender, rows) for contender in pool]
        ranked = sorted(range(len(pool)), key=lambda k: merits[k], reverse=True)  # of equals the one drawn first
        pool = [pool[k] for k in ranked[: max(count, (len(pool) + 1) // 2)]]
    return pool[:count]


def _drawn(material: Material, count: int, rng: np.random.Generator) -> list[Contender]:
    """Different contenders; the first is the first template as it is, the user's own where there is one."""
    known, names = prompts(material), [str(name) for name in templates(material).options]
    instructions = [parse(f"{each}\n\n{{text}}", material.task).fixed for each in INSTRUCTIONS[material.task.kind]]
    found = [Contender(prompt=known[names[0]], calibration="none")]
    for _ in range(2 * count):
        if len(found) == count:
            break
        prompt = known[names[int(rng.integers(len(names)))]]
        lead = ["", *instructions][int(rng.integers(len(instructions) + 1))]
        led = replace(prompt, fixed=lead)
        if not prompt.fixed and fits(material, led):
            prompt = led
        shots, stratified = _SHOTS[int(rng.integers(len(_SHOTS)))], bool(rng.integers(2))
        prompt, _rows = shown(material, prompt, shots, rng, stratified=stratified)
        zeroed = material.task.labels and material.backbone.tells_scores
        how = _CALIBRATIONS[int(rng.integers(len(_CALIBRATIONS)))] if zeroed else "none"
        one = Contender(prompt=prompt, calibration=how)
        if one not in found:
            found.append(one)
    return found


def merit(contender: Contender, material: Material) -> float:
    """How well it answers some rows, the more the better: minus the mean loss in nats, of a label or of a token.

    A base that tells no likelihood of given texts is judged by the task's metric of what it writes.
    Not the share of right labels: on few rows prompts that always give one label would be among the best.
    """
    adapter, backbone = contender.adapter(material), material.backbone
    encodings = backbone.encode_for(material.examples, adapter)
    if material.task.labels:
        loss = cross_entropy(predict(adapter, encodings, material.store), material.rows.labels_N)
        return -float(loss.total) / loss.count
    if not backbone.is_here:
        assert material.judge is not None
        return material.judge(material.examples, generate_texts(adapter, encodings, material.store))
    base, after = writer(backbone), contender.prompt.row
    answers = [base.encode_answer(str(e.target), after=after, ends=True) for e in material.examples]
    losses = answer_losses(adapter, encodings, answers, material.store)
    return -sum(losses) / sum(map(len, answers))


def place(material: Material, params: Params, rng: np.random.Generator) -> Adapter:
    """The best of a pool, calibrated on the training rows."""
    return search(material, int(params["pool"]), rng).adapter(material)


def space(material: Material) -> Space:
    """How many prompts are drawn: each trial draws anew."""
    return {"pool": Choice(options=(16, 32, 8, 64))}


METHOD = Method(
    name="prompt-search",
    family="no training",
    summary="Searches templates, instructions, demonstrations and zero points on the training rows.",
    trains="nothing; a prompt is chosen, C zero points are set",
    serves="one pass of the bare base behind the prompt, which runs once",
    place=place,
    space=space,
    refuses=cannot_be_asked,
    by_words=True,
    kinds=("classify", "generate"),
)
