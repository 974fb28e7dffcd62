"""Running the ways of adapting a model: equal effort, refits, one pass over test, the run folder."""
