"""Who writes D_meta: one annotator a file."""
