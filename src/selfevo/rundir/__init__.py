"""The run directory: files that survive a kill, stages, models, results, and reading them."""
