"""Engines generate text. There is one file per engine."""
