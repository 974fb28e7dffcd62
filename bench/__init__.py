"""Measurements: a program for each claim about speed, budgets and decisions."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "support" / "messages.csv"
"""What programs run on where no data is named."""
