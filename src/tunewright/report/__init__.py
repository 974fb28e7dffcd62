"""The page made of a run folder: no torch, no model, no network, no script."""
