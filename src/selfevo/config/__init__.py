"""The configuration: its sections, how it is read, and parts from outside."""
