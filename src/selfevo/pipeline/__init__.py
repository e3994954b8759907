"""From a configuration to a finished run, and runs beside variants of it."""
