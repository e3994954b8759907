"""Measuring models on problems with known answers, and watching rounds without them."""
