"""Loads prompts and trajectories from files, folders and the hub."""
