"""Answers prompts with a trained model and self-refinement."""
