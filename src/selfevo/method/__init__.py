"""SELF itself: the loop, its skills, records and losses, filters, the one rule of inference. Sees no gold answer."""
