"""The run folder: where things are in it, and the records that are."""
