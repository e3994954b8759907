"""Generation by several workers on a Ray cluster. Nothing outside of this folder imports Ray."""

import os

# Read when Ray is imported. Ray would print what its own processes say, many lines a death, to the standard output.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
