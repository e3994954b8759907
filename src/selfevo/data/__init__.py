"""Rows from files, folders and the hub: prompts and trajectories."""
