"""Text before the model and labels after it: takes arrays and callables, never a model."""
