"""The settings of a run: one record behind the command line, the YAML file and the Python call.

The field is the only source of a default; its description is the help, the docs and the error.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tunewright.errors import ConfigError, unknown
from tunewright.types import TaskKind

EMBEDDED_MODEL = "embedded"
"""Name of the model that ships with `tunewright[demo]`: all-MiniLM-L6-v2."""

REMOTE = "openai:"
"""How the name of a model begins that answers behind an OpenAI-compatible endpoint."""

DEFAULT_METRICS: Mapping[TaskKind, str] = {
    "classify": "accuracy",
    "multi-label": "multi-label-micro-f1",
    "choose": "accuracy",
    "generate": "rouge-l",
}

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: object) -> object:
    """`90`, `"90s"`, `"10m"` or `"1.5h"` in seconds; anything else unchanged, for pydantic to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*([smh]?)\s*", value)
        if match:
            return float(match[1]) * _UNITS_S[match[2] or "s"]
    return value


def names(value: object) -> object:
    """`"a,b"` as `["a", "b"]`; anything else unchanged."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def short_name(model: str) -> str:
    """A base as candidates and folders are named after it: the last part of its name or folder, without an URL."""
    return Path(remote_model(model) or model).name


def remote_model(name: str) -> str | None:
    """The model that an endpoint knows, of a name with its URL or without; None for one that is no endpoint's."""
    return name.removeprefix(REMOTE).partition("@http")[0] if name.startswith(REMOTE) else None


def named(value: object) -> object:
    """`{"a": "b"}` as `["a=b"]`; else as `names`."""
    return [f"{name}={each}" for name, each in value.items()] if isinstance(value, Mapping) else names(value)


Names = Annotated[tuple[str, ...], BeforeValidator(names)]
Seconds = Annotated[float, BeforeValidator(seconds)]


def _absent(description: str, **limits: Any) -> Any:
    """A setting that need not be given."""
    return Field(default=None, description=description, **limits)


class RunConfig(BaseModel):
    """Everything `tunewright compare` needs to repeat a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    data: str = Field(description="csv, tsv, jsonl or parquet file, a folder of them, or a dataset name on the hub")
    dev: str | None = _absent("file with the rows to tune on; split off the data when absent")
    test: str | None = _absent("file with the rows to judge on; split off the data when absent")
    task: TaskKind = Field(
        default="classify",
        description="classify: choose a label; multi-label: all that fit; choose: one of the row's own texts;"
        " generate: a text",
    )
    text: str | None = _absent("column of the text; found by name or by rule when absent")
    text_pair: str | None = _absent("column of a second text, for pairs")
    label: str | None = _absent("column of the label; found by name or by rule when absent")
    label_separator: str | None = _absent(
        "what stands between the labels of a row of --task multi-label (default: comma); lists are lists", min_length=1
    )
    choices: Names = Field(
        default=(), description="columns of the candidates of each row of --task choose, such as choice1,choice2"
    )
    input: str | None = _absent("column of the input of --task generate; found by name or by rule when absent")
    target: str | None = _absent("column of the text to answer with; found by name or by rule when absent")
    reasoning: str | None = _absent(
        "column of the reasoning in training rows, shown by chain-of-thought; where it is the target's own "
        "column, reasoning and target stand before and after ####"
    )
    descriptions: str | None = _absent(
        "YAML file: label -> a few words on what it means; a semicolon separates several"
    )
    rows: int | None = _absent("use at most this many training rows, stratified", ge=1)
    model: Names = Field(
        default=(EMBEDDED_MODEL,),
        min_length=1,
        description="base model: name, folder, or openai:MODEL@URL of an endpoint; may repeat",
    )
    methods: Names = Field(default=("all",), min_length=1, description="methods to compare, comma separated, or all")
    template: str | None = _absent(
        "text file with your present prompt, {text} or any {COLUMN} in it: a candidate of its own"
    )
    documents: str | None = _absent("folder of text files, from whose passages method retrieve answers")
    vector_store: str | None = _absent(
        "URL of a PostgreSQL with pgvector that searches nearest demonstrations and passages"
    )
    trials: int | None = _absent("tuning trials for each family of methods (default 12)", ge=1)
    budget: Seconds | None = _absent("time for the whole run, such as 90s, 10m or 2h", gt=0)
    max_cost: float | None = _absent("modelled US dollars for the whole run, at most", gt=0)
    prices: str | None = _absent("YAML file with your own prices; see the guide on cost")
    requests_per_day: float | None = _absent("your volume, for prices and the cost of ownership (default 3,288)", gt=0)
    months: float | None = _absent("how long the candidate is to serve (default 12)", gt=0)
    seeds: int = Field(
        default=3, ge=1, description="refits of a method's best setting (with folds, of what is kept); 1: none"
    )
    seed: int = Field(default=0, ge=0, description="the one number all randomness derives from")
    metric: str = Field(
        default_factory=lambda settings: DEFAULT_METRICS[settings.get("task", "classify")],
        description="accuracy, macro-f1 or mcc; multi-label-micro-f1 or multi-label-macro-f1; to generate: rouge-l, "
        "bleu, chrf, token-f1, exact-match, numeric or sql-execution; or module:function, of yours",
    )
    database: str | None = _absent("SQLite file that --metric sql-execution asks; it is only read")
    margin: float = Field(
        default=1.0, ge=0, lt=100, description="points a cheaper candidate may lose and still be recommended"
    )
    require: Names = Field(
        default=(), description="what a candidate must have: quality>=0.9,latency_p95_ms<=50,bytes<=5MB,local,editable"
    )
    predictions: Annotated[tuple[str, ...], BeforeValidator(named)] = Field(
        default=(), description="NAME=FILE: answers of anything else to the test rows, compared too; may repeat"
    )
    folds: int | None = _absent("cross-validation with N folds; 1: a single split; chosen by size when absent", ge=1)
    repeats: int = Field(default=1, ge=1, description="times the cross-validation is repeated on other folds")
    slice: Names = Field(default=(), description="column, or rule such as len>200, to report apart; may repeat")
    swap: str | None = _absent("YAML file: pairs of terms to swap in the test rows, to count answers that flip")
    error_costs: str | None = _absent("YAML file: true label -> answer -> cost of that error")
    pruning: bool = Field(default=True, description="stop trials early that are behind the median of earlier ones")
    start_from: str | None = _absent("adapter folder, ours or PEFT's: methods that learn its part start there")
    keep_state: bool = Field(
        default=False, description="keep each refit's optimizer beside its adapter, for --start-from"
    )
    retention: str | None = _absent("text file: how much worse the base predicts it under each candidate")
    max_tokens: int | None = _absent("cut texts to this many tokens; the model's limit when absent", ge=8)
    out: str | None = _absent("run folder to write; runs/<data>-<date> when absent")
    resume: bool = Field(default=False, description="go on with the run folder given by out")

    @property
    def num_trials(self) -> int | None:
        """Trials for each family; None where time alone decides."""
        if self.trials is None and self.budget is None and self.max_cost is None:
            return DEFAULT_TRIALS
        return self.trials


DEFAULT_TRIALS = 12


def load_config(path: str | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Settings from a YAML file, with the command line's on top. A run that is resumed brings its own for the rest.

    Args:
        path: YAML file, or None.
        overrides: Field -> value; a value of None means "not given".

    Raises:
        ConfigError: With every fault at once: unknown keys (nearest name offered), wrong types, values out of range.
    """
    settings: dict[str, Any] = {} if path is None else read_yaml(Path(path))
    settings |= {key: value for key, value in overrides.items() if value is not None}
    return validate(_recorded(settings) | settings)


def _recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run to go on with; none where nothing is resumed.

    Raises:
        ConfigError: Its metric is code, which only the user names.
    """
    out = settings.get("out")
    record = Path(str(out)) / "run.yaml"
    if settings.get("resume") is not True or out is None or not record.is_file():
        return {}
    found = read_yaml(record)
    metric = str(found.get("metric"))
    if ":" in metric and "metric" not in settings:
        raise ConfigError(
            f"the run in {out} is judged by code, {metric}, which is not imported because a folder says so. Name it "
            f"again to go on: --metric {metric}."
        )
    return found


def validate(settings: Mapping[str, Any]) -> RunConfig:
    """A checked record.

    Raises:
        ConfigError: With every fault at once.
    """
    faults = [unknown("setting", key, RunConfig.model_fields) for key in settings if key not in RunConfig.model_fields]
    known = {key: value for key, value in settings.items() if key in RunConfig.model_fields}
    lost = "data" if known.get("resume") is True and known.get("out") is None else None
    if lost is not None:  # with the folder, data and all other settings are known
        faults.append("`resume` needs `out`, the run folder to go on with. Add --out FOLDER.")
    try:
        config = RunConfig(**known)
    except ValidationError as error:
        # A default that hangs on another setting is not made where some setting is wrong: that is no fault of its own.
        own = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
        faults += [_fault(item) for item in own if (item["type"], item["loc"]) != ("missing", (lost,))]
        raise ConfigError(faults) from None
    if faults:
        raise ConfigError(faults)
    return config


def _fault(item: Mapping[str, Any]) -> str:
    """One line of ours for one of pydantic's: what, got, allowed, what to do."""
    key = ".".join(str(part) for part in item["loc"])
    field = RunConfig.model_fields.get(str(item["loc"][0]))
    about = "" if field is None or field.description is None else f" ({field.description})"
    if item["type"] == "missing":
        return f"`{key}` is missing{about}. Give it on the command line or in the YAML."
    if item["type"] == "too_short":
        return f"`{key}` must name at least one. Got none{about}."
    rule = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"`{key}` must be {rule}. Got {item['input']!r}{about}."


def read_yaml(path: Path, *, as_text: bool = False) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Args:
        path: The file.
        as_text: Keep every scalar as written: a label `no` or `01` is no boolean and no number.

    Raises:
        ConfigError: Missing, not UTF-8, not YAML, or not a mapping.
    """
    content = parse_yaml(path, as_text=as_text)
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` lines. Got {type(content).__name__}.")
    return {str(key): value for key, value in content.items()}


def parse_yaml(path: Path, *, as_text: bool = False) -> object:
    """What a YAML file holds; arguments as for `read_yaml`.

    Raises:
        ConfigError: Missing, not UTF-8 or not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader if as_text else yaml.SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"no such file: {path}. Check the path.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot read {path} as YAML: {reason}. Allowed: UTF-8 text, `key: value` lines.") from None


def choose(what: str, wanted: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The wanted names in the table's order; `all` means every one.

    Raises:
        ConfigError: With every unknown name at once.
    """
    if "all" in wanted:
        return tuple(allowed)
    faults = [unknown(what, name, ["all", *allowed]) for name in wanted if name not in allowed]
    if faults:
        raise ConfigError(faults)
    return tuple(name for name in allowed if name in wanted)
