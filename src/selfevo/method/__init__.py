"""SELF itself: the loop, its skills and records, the losses, the filters, the one rule of inference. Sees no gold answer."""
