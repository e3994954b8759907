"""Checks and previews before a run."""
