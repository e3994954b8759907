"""Before a run: what can go wrong, and what would be trained and asked."""
