"""Measures models on problems with known answers, and monitors rounds without them."""
