"""A stage: one split of the rows, with the search on it and the refits. A run is one stage, or one for each fold."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.backbones.inference import FeatureStore
from tunewright.config import RunConfig, short_name
from tunewright.data.documents import check_apart, read_documents
from tunewright.errors import ConfigError
from tunewright.evaluation.metrics import Metric
from tunewright.evaluation.named import find_metric
from tunewright.methods.base import Choice, Method, Range, word_remarks
from tunewright.methods.table import METHODS, chosen, find
from tunewright.prompts import pgvector
from tunewright.prompts.template import Prompt, parse, read_source
from tunewright.runs.fits import refits, trials
from tunewright.tuning import finals
from tunewright.tuning.attempt import Workshop, prepare
from tunewright.tuning.choice import rehearse
from tunewright.tuning.effort import Effort, Entrant
from tunewright.tuning.progress import Clock, Journal, OutOfTime
from tunewright.tuning.search import run_search
from tunewright.tuning.session import Session
from tunewright.tuning.spending import Spending
from tunewright.tuning.start import Start, read_start
from tunewright.types import Dataset


@dataclass(frozen=True, kw_only=True)
class Own:
    """What the user brings besides the rows, as it was when it was read."""

    prompt: Prompt | None
    documents: tuple[str, ...]
    """Passages."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A search and its refits."""

    session: Session
    own: Own
    effort: Effort
    dataset: Dataset
    refused: Sequence[Entrant]
    """Candidates their base cannot run."""

    @property
    def said(self) -> list[str]:
        """What is told about where methods start, and of references that nobody can match."""
        starts = [workshop.start for workshop in self.session.workshops.values()]
        said = list(dict.fromkeys(s.said(_methods(self.session.config)) for s in starts if s is not None))
        remarks = self.session.metric.remarks
        rights = [right for row in self.dataset.splits.test for right in row.references]
        failed = () if remarks is None else remarks(rights)
        bases = [workshop.material.backbone for workshop in self.session.workshops.values()]
        said += [remark for base in bases for remark in word_remarks(base, self.dataset.task)]
        return said + [f"Of what is right for the test rows {each}: no answer agrees with those." for each in failed]

    def elsewhere(self, config: RunConfig, dataset: Dataset, out: Path, clock: Clock) -> "Stage":
        """The same bases, with their known features, on other rows and in another folder."""
        materials = {name: workshop.material for name, workshop in self.session.workshops.items()}
        stores = {name: material.store for name, material in materials.items()}
        journal, spending = self.session.journal, self.session.spending
        return open_stage(config, dataset, self.own, out, clock, journal, stores, spending)

    def of(self, candidate: str, num_trials: int | None) -> "Stage":
        """The same for one candidate alone."""
        entrants = [entrant for entrant in self.session.entrants if entrant.id == candidate]
        effort = dataclasses.replace(self.effort, trials=num_trials)
        return dataclasses.replace(self, session=dataclasses.replace(self.session, entrants=entrants), effort=effort)

    def run(self) -> None:
        """Searches and refits, or goes on with that."""
        self.session.begin()
        rehearse(self.session, self.session.scorer(self.dataset.task, self.dataset.splits.test))
        entrants = self.session.entrants
        if refits(self.session.out):  # what time a kill gave back must not change, but what an endpoint did not answer
            entrants = [entrant for entrant in entrants if self.effort.is_unanswered(entrant.backbone)]
        if entrants:
            run_search(dataclasses.replace(self.session, entrants=entrants), self.effort)
        finals.refit(self.session, self.effort)

    def read_test(self) -> None:
        """Every refit answers the test rows."""
        finals.read_test(self.session, self.dataset)


def open_stage(
    config: RunConfig,
    dataset: Dataset,
    own: Own,
    out: Path,
    clock: Clock,
    journal: Journal,
    stores: Mapping[str, FeatureStore],
    spending: Spending | None = None,
) -> Stage:
    """A stage with what is left of it in its folder.

    Args:
        config: The settings.
        dataset: The rows.
        own: What the user brings besides.
        out: Where its files are.
        clock: Its time.
        journal: Hears of progress.
        stores: Name -> base, with its features that are known already.
        spending: Of the run, where bases answer elsewhere.
    """
    bases = {name: store.backbone for name, store in stores.items()}
    if config.vector_store is not None and not any(base.answers_prompts and base.width for base in bases.values()):
        raise ConfigError(
            "`vector_store` is for models that answer prompts and show features: an encoder's demonstrations vote in "
            f"memory. Got {', '.join(bases)}. Give a decoder or a masked model with --model, or leave the setting out."
        )
    starts = read_start(config.start_from, bases, _methods(config))
    metric = find_metric(config.metric, config.task, database=config.database)
    workshops = {
        name: _prepare(config, dataset, own, metric, store, starts.get(name)) for name, store in stores.items()
    }
    for workshop in workshops.values():
        workshop.material.store.between = clock.check
    if spending is not None:
        spending.clock = clock
    with clock.bounded(clock.left_s / 2):
        entrants, refused = _entrants(_methods(config), workshops)
    session = Session(
        config=config,
        out=out,
        columns=dataset.columns,
        is_reply=dataset.is_reply,
        clock=clock,
        journal=journal,
        workshops=workshops,
        entrants=entrants,
        metric=metric,
        spending=spending,
    )
    effort = Effort(
        trials=config.num_trials,
        pruning=config.pruning,
        seed=config.seed,
        slack=dev_noise(len(dataset.splits.dev)),
        history=trials(out),
    )
    return Stage(session=session, own=own, effort=effort, dataset=dataset, refused=refused)


def _methods(config: RunConfig) -> list[Method]:
    """The methods that were asked for; all of them are those that answer this kind of task."""
    fitting = [name for name, m in METHODS.items() if config.task in m.kinds and _has_its_need(config, m)]
    names = chosen(config.methods, fitting if "all" in config.methods else tuple(METHODS))
    return [find(name) for name in names]


def _has_its_need(config: RunConfig, method: Method) -> bool:
    return method.needs is None or getattr(config, method.needs) is not None


def needs(config: RunConfig) -> list[str]:
    """Methods without the setting that they work on, and such settings without their method: one line for each."""
    names, faults = chosen(config.methods), []
    for method in METHODS.values():
        named, given = method.name in names, _has_its_need(config, method)
        if named and not given and "all" not in config.methods:
            about = RunConfig.model_fields[str(method.needs)].description
            faults.append(f"method {method.name!r} needs --{method.needs} ({about}). Give it, or leave the method out.")
    users: dict[str, list[str]] = {}
    for method in METHODS.values():
        for setting in (method.needs, method.uses):
            if setting is not None and getattr(config, setting) is not None:
                users.setdefault(setting, []).append(method.name)
    return faults + [
        f"`{setting}` is for method {' or '.join(map(repr, able))}, which takes no part. Got methods "
        f"{', '.join(names)}. Add it to --methods, or leave the setting out."
        for setting, able in users.items()
        if not set(able) & set(names)
    ]


def user_source(config: RunConfig) -> str:
    """The user's own prompt as it stands in its file, empty where there is none.

    Raises:
        ConfigError: An unreadable file, or an empty one.
    """
    return "" if config.template is None else read_source(config.template)


def read_own(config: RunConfig, source: str, dataset: Dataset) -> Own:
    """The user's own prompt and documents, read once: what is hashed is what every base and fold gets.

    Args:
        config: The settings.
        source: The prompt, as in `user_source`.
        dataset: The rows.

    Raises:
        ConfigError: A template that names no such column; a folder that is empty, too large or not of texts.
        DataError: Dev or test rows stand in the documents.
        VectorStoreError: There is none at its URL.
    """
    if config.vector_store is not None:
        pgvector.use(config.vector_store)
    prompt = parse(source, dataset.task, dataset.columns, dataset.further) if source else None
    if config.documents is None:
        return Own(prompt=prompt, documents=())
    documents = read_documents(config.documents)
    check_apart(documents.texts, dataset)
    return Own(prompt=prompt, documents=documents.passages)


def _prepare(
    config: RunConfig,
    dataset: Dataset,
    own: Own,
    metric: Metric,
    store: FeatureStore,
    start: Start | None,
) -> Workshop:
    splits, base = dataset.splits, store.backbone
    limit = base.max_tokens if config.max_tokens is None else min(config.max_tokens, base.max_tokens)
    workshop = prepare(
        dataset.task,
        base,
        splits.train,
        splits.dev,
        metric,
        limit,
        store=store,
        prompt=own.prompt,
    )
    material = dataclasses.replace(workshop.material, documents=own.documents, vector_store=config.vector_store)
    return dataclasses.replace(workshop, material=material, start=start)


def _entrants(methods: Sequence[Method], workshops: dict[str, Workshop]) -> tuple[list[Entrant], list[Entrant]]:
    """Candidates that can run, and those that cannot."""
    able: list[Entrant] = []
    unable: list[Entrant] = []
    for base, workshop in workshops.items():
        for method in methods:
            material, space = workshop.material, dict[str, Range | Choice]()
            reason = method.refusal(material.backbone, material.task)
            try:
                space |= {} if reason is not None else method.space(material)
            except OutOfTime:
                reason = "the budget has no time for the features of its training rows; raise --budget or set --rows"
            if workshop.start is not None:
                space = workshop.start.space(method, space, workshop.material.max_tokens)
            entrant = Entrant(
                id=candidate_id(method.name, base, len(workshops)),
                method=method.name,
                family=method.family,
                backbone=base,
                space=space,
                refused=reason,
            )
            (able if reason is None else unable).append(entrant)
    return able, unable


def dev_noise(num_dev: int) -> float:
    """Largest standard error of a proportion on so many rows."""
    return 0.5 / math.sqrt(num_dev)


def candidate_id(method: str, base: str, num_bases: int) -> str:
    """`lora`, or `lora@base` where several bases are compared. Also a folder's name."""
    name = method.replace(":", "+")  # no folder of Windows may have the one, no outside candidate the other
    return name if num_bases == 1 else f"{name}@{short_name(base)}"
