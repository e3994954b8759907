"""Answers of a trained model, refined by itself."""
