"""Who generates text: one engine a file."""
