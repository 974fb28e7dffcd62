"""One attempt: a method with given parameters on given rows, trained and scored on dev.

Shapes: N rows, C labels.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from tunewright.adapters.adapter import Adapter
from tunewright.adapters.transfer import starting_at
from tunewright.backbones.base import Base
from tunewright.backbones.inference import FeatureStore, answer
from tunewright.evaluation.label_sets import members, thresholds
from tunewright.evaluation.metrics import Metric, label_indices, row_scorer
from tunewright.methods.base import Material, Method, settings
from tunewright.methods.prompting import fitted
from tunewright.prompts.template import PLAIN, Prompt
from tunewright.runtime import PeakMemory
from tunewright.training.loop import Observe, Trained, train, trainable_count, trained_names
from tunewright.training.objective import Exam, Rows, TextExam, evaluate, evaluate_texts
from tunewright.tuning.start import Start
from tunewright.types import BETWEEN_LABELS, DevScore, Example, Params, Task, TaskKind


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A base with the train and dev rows of a task, tokenised once for all attempts."""

    material: Material
    dev_examples: Sequence[Example]
    exam: Exam | TextExam
    """The dev rows and the task's metric."""
    start: Start | None = None
    """Where methods that learn its part begin."""


def prepare(
    task: Task,
    backbone: Base,
    train_rows: Sequence[Example],
    dev_rows: Sequence[Example],
    metric: Metric,
    limit: int,
    *,
    store: FeatureStore | None = None,
    prompt: Prompt | None = None,
) -> Workshop:
    """Tokenises the rows.

    Args:
        task: What is asked.
        backbone: The base.
        train_rows: What methods see.
        dev_rows: What they are tuned on.
        metric: Of the task.
        limit: Most tokens of an input.
        store: Features of the base that are known already; none when absent.
        prompt: The user's own.

    Raises:
        ConfigError: The prompt's mask is missing or misplaced for this base.
    """
    to_rows = _ROWS[task.kind]
    rows, dev = to_rows(task, backbone, train_rows, limit), to_rows(task, backbone, dev_rows, limit)
    material = Material(
        task=task,
        backbone=backbone,
        store=FeatureStore(backbone) if store is None else store,
        examples=train_rows,
        rows=rows,
        max_tokens=limit,
        prompt=None if prompt is None else fitted(prompt, backbone),
        judge=lambda examples, answers: _value(metric, task, examples, answers),
    )

    scorer = row_scorer(metric, task.labels, dev_rows)

    def score_sets(logits_NC: Tensor, _labels_N: Tensor) -> float:
        return scorer.value(scorer.stats(sets_above(task, logits_NC, fitted_thresholds(task, logits_NC, dev))))

    def score(logits_NC: Tensor, _labels_N: Tensor) -> float:
        return scorer.value(scorer.stats([task.labels[k] for k in logits_NC.argmax(-1).tolist()]))

    def score_texts(texts: Sequence[str]) -> float:
        return scorer.value(scorer.stats(texts))

    if task.kind == "generate":
        exam: Exam | TextExam = TextExam(rows=dev, score=score_texts)
    else:
        exam = Exam(rows=dev, score=score if dev.sets_NC is None else score_sets)
    return Workshop(material=material, dev_examples=dev_rows, exam=exam)


def _value(metric: Metric, task: Task, examples: Sequence[Example], answers: Sequence[str]) -> float:
    """The task's metric on some rows."""
    scorer = row_scorer(metric, task.labels, examples)
    return scorer.value(scorer.stats(answers))


def label_rows(task: Task, backbone: Base, examples: Sequence[Example], limit: int) -> Rows:
    """Tokenised rows with label indices; `UNKNOWN_LABEL` for a label the task does not know."""
    labels_N = torch.from_numpy(label_indices(task.labels, (e.label for e in examples)))
    return Rows(encodings=backbone.encode(examples, limit), labels_N=labels_N)


def set_rows(task: Task, backbone: Base, examples: Sequence[Example], limit: int) -> Rows:
    """Tokenised rows with the labels each has; those the task does not know are left out."""
    sets_NC = torch.from_numpy(members([str(e.label) for e in examples], task.labels)).float()
    return Rows(encodings=backbone.encode(examples, limit), labels_N=torch.zeros(0, dtype=torch.long), sets_NC=sets_NC)


def fitted_thresholds(task: Task, logits_NC: Tensor, dev: Rows) -> Tensor:
    """The logits above which labels are best answered on dev: [C].

    One for each label where the metric is a mean over labels, else one for all.
    """
    assert dev.sets_NC is not None
    apart = task.metric == "multi-label-macro-f1"
    return torch.from_numpy(thresholds(logits_NC.double().numpy(), dev.sets_NC.bool().numpy(), apart=apart)).float()


def sets_above(task: Task, logits_NC: Tensor, thresholds_C: Tensor) -> list[str]:
    """The labels above the thresholds, each row's as one string."""
    return [BETWEEN_LABELS.join(compress(task.labels, row)) for row in (logits_NC > thresholds_C).tolist()]


def text_rows(_task: Task, backbone: Base, examples: Sequence[Example], limit: int) -> Rows:
    """Tokenised rows with the tokens of their targets, which an encoder does not write."""
    after, most = PLAIN, backbone.max_tokens // 2
    answers = _targets(backbone, examples, after, most) if backbone.writes else ()
    return Rows(encodings=backbone.encode(examples, limit), labels_N=torch.zeros(0, dtype=torch.long), answers=answers)


def cut_targets(material: Material) -> list[str]:
    """Ids of the training rows whose targets are longer than what is learned of them."""
    base = material.backbone
    if not base.writes:
        return []
    whole = _targets(base, material.examples, PLAIN, None)
    rows = zip(material.examples, whole, material.rows.answers, strict=True) if material.rows.answers else ()
    return [example.id for example, every, kept in rows if len(every) > len(kept)]


def _targets(base: Base, examples: Sequence[Example], template: Prompt, most: int | None) -> list[tuple[int, ...]]:
    """Tokens of the targets after a template, cut to so many."""
    return [base.encode_answer(str(e.target), after=template.row, ends=True)[:most] for e in examples]


_ROWS: Mapping[TaskKind, Callable[[Task, Base, Sequence[Example], int], Rows]] = {
    "classify": label_rows,
    "multi-label": set_rows,
    "choose": label_rows,
    "generate": text_rows,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an attempt came to."""

    trained: Trained
    seconds: float
    peak_memory_bytes: int | None
    trainable: int
    num_cut: int
    """Train and dev rows whose texts are cut under the adapter."""


def attempt(
    method: Method,
    params: Params,
    workshop: Workshop,
    rng: np.random.Generator,
    observe: Observe,
    *,
    keeps_state: bool = False,
) -> Outcome:
    """Places, trains and scores.

    Args:
        method: The method.
        params: One point of its space.
        workshop: Base and rows.
        rng: All randomness of the attempt.
        observe: Hears of steps and epochs and may stop it.
        keeps_state: Whether to return where the training stood at its best epoch.

    Raises:
        OutOfMemory: Not even one row fits.
    """
    start, peak = time.monotonic(), PeakMemory()
    peak.start()
    material = workshop.material
    adapter = method.place(material, params, rng)
    how, origin = settings(method, params, material), workshop.start
    if origin is not None and origin.serves(method):
        adapter = starting_at(adapter, origin.adapter)
    rows, exam = _fitted(workshop, adapter)

    def schedule(progress: float) -> dict[str, float]:
        return dict(method.trained(adapter, params, progress))

    state = None
    if origin is not None and origin.serves(method):
        state = origin.state_for(adapter, trained_names(schedule, how.epochs))

    trainable = trainable_count(adapter, schedule, how.epochs)
    if trainable == 0:
        trained = _untrained(adapter, workshop, exam)
    else:
        trained = train(
            adapter,
            schedule,
            how,
            rows,
            exam,
            store=material.store,
            rng=rng,
            observe=observe,
            state=state,
            keeps_state=keeps_state,
        )
    return Outcome(
        trained=trained,
        seconds=time.monotonic() - start,
        peak_memory_bytes=peak.read_bytes(),
        trainable=trainable,
        num_cut=sum(encoding.num_cut > 0 for encoding in (*rows.encodings, *exam.rows.encodings)),
    )


def _untrained(adapter: Adapter, workshop: Workshop, exam: Exam | TextExam) -> Trained:
    best, logits_NC = _judged(adapter, workshop, exam)
    return Trained(
        adapter=adapter,
        scores=(best,),
        best=best,
        stopped="finished",
        num_tokens=0,
        micro_batches=1,
        dev_logits_NC=logits_NC,
    )


def _judged(adapter: Adapter, workshop: Workshop, exam: Exam | TextExam) -> tuple[DevScore, Tensor | None]:
    """The score of an adapter that does not train, as epoch 0, and its logits if it has any."""
    store = workshop.material.store
    if isinstance(exam, Exam):
        return evaluate(adapter, exam, store)
    if adapter.floor is None and not adapter.deliberates:
        return evaluate_texts(adapter, exam, store), None
    value = exam.score([each.answer for each in answer(adapter, workshop.dev_examples, store)])
    return DevScore(epoch=0, value=value, loss=0.0), None


def _fitted(workshop: Workshop, adapter: Adapter) -> tuple[Rows, Exam | TextExam]:
    """Train rows and exam, cut further where the adapter's virtual tokens take up positions."""
    material, exam = workshop.material, workshop.exam
    if isinstance(exam, TextExam):
        return _framed(workshop, adapter, exam)
    backbone = material.backbone
    longest = max(len(e.ids) for e in (*material.rows.encodings, *exam.rows.encodings))
    if not adapter.frames_rows and longest <= material.max_tokens - adapter.prefix_tokens:
        return material.rows, exam
    rows = replace(material.rows, encodings=backbone.encode_for(material.examples, adapter))
    dev = replace(exam.rows, encodings=backbone.encode_for(workshop.dev_examples, adapter))
    return rows, Exam(rows=dev, score=exam.score)


def _framed(workshop: Workshop, adapter: Adapter, exam: TextExam) -> tuple[Rows, TextExam]:
    """Train rows and exam as the adapter's template has them; targets end where its decoding would end them."""
    material, base = workshop.material, workshop.material.backbone
    template, decoding = adapter.template, adapter.decoding
    if template is None or decoding is None or not base.writes:
        return material.rows, exam
    found = []
    for examples in (material.examples, workshop.dev_examples):
        answers = _targets(base, examples, template, decoding.max_new_tokens)
        encodings = base.encode_for(examples, adapter)
        found.append(replace(material.rows, encodings=encodings, answers=answers))
    return found[0], replace(exam, rows=found[1])
