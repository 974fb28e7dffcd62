"""The methods: one file and one line of the table each."""

from tunewright.methods import (
    copy_input,
    few_shot,
    full,
    gradual_unfreezing,
    linear_probe,
    lora,
    majority,
    nearest_target,
    p_tuning,
    prefix,
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
    soft_prompt.METHOD,
    p_tuning.METHOD,
    prefix.METHOD,
    linear_probe.METHOD,
    lora.METHOD,
    full.METHOD,
    gradual_unfreezing.METHOD,
)
