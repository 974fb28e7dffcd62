"""What answers are worth: metrics, statistics, the decision. Arrays in, records out: no model and no torch."""
