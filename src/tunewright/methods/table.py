"""The methods, in the order in which they are listed: a line each."""

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
    prefix,
    prompt_search,
    soft_prompt,
    template,
    zero_shot,
)
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
