"""Answering rows with what was shipped."""
