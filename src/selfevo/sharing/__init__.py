"""Taking a run's results elsewhere: its rows, its adapters, its models."""
