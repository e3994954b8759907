"""The configuration: its sections, how it is read, and your own parts."""
