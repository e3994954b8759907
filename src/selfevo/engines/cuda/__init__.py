"""Faster decoding on a CUDA device."""
