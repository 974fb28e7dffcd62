"""What answers are worth: metrics, statistics, the harness that owns the test split, the decision."""
