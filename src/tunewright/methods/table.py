"""The methods, in the order in which they are listed: a line each."""

from collections.abc import Sequence
from functools import cache

from tunewright.config import choose
from tunewright.errors import ConfigError
from tunewright.methods import (
    chain_of_thought,
    combine,
    copy_input,
    few_shot,
    full,
    gradual_unfreezing,
    instruction_prompt,
    linear_probe,
    lora,
    majority,
    nearest_target,
    p_tuning,
    peft_tuner,
    prefix,
    prompt_ensemble,
    prompt_search,
    retrieve,
    soft_prompt,
    template,
    zero_shot,
)
from tunewright.methods.base import Method
from tunewright.registry import table

METHODS = table(
    majority.METHOD,
    copy_input.METHOD,
    nearest_target.METHOD,
    template.METHOD,
    zero_shot.METHOD,
    few_shot.METHOD,
    prompt_search.METHOD,
    chain_of_thought.METHOD,
    prompt_ensemble.METHOD,
    retrieve.METHOD,
    soft_prompt.METHOD,
    p_tuning.METHOD,
    prefix.METHOD,
    instruction_prompt.METHOD,
    linear_probe.METHOD,
    lora.METHOD,
    full.METHOD,
    gradual_unfreezing.METHOD,
    combine.METHOD,
)

LIBRARIES = {"peft": peft_tuner}
"""What stands before the colon of `peft:ia3` -> who makes a method of what stands behind it."""


@cache
def find(name: str) -> Method:
    """The method of a name that `chosen` let through."""
    library, _, kind = name.partition(":")
    return LIBRARIES[library].method(kind) if kind else METHODS[name]


def chosen(wanted: Sequence[str], allowed: Sequence[str] = tuple(METHODS)) -> tuple[str, ...]:
    """The wanted names, those of the table first and in its order; `all` means every allowed one of the table.

    Raises:
        ConfigError: With every unknown name at once.
    """
    foreign = tuple(dict.fromkeys(name for name in wanted if name.partition(":")[0] in LIBRARIES))
    own, faults, found = [name for name in wanted if name not in foreign], list[str](), tuple[str, ...]()
    pairs = [name.partition(":") for name in foreign]
    faults += [fault for library, _, kind in pairs if (fault := LIBRARIES[library].fault(kind)) is not None]
    try:
        found = choose("method", own, (*allowed, *_HINTS)) if own else ()
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return (*(name for name in found if name not in _HINTS), *foreign)


_HINTS = tuple(f"{library}:TYPE" for library in LIBRARIES)
"""How such methods are named where names are listed."""
