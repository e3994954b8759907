"""Builds and executes a run from a configuration, and the runs of an ablation."""
