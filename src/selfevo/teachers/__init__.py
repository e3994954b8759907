"""Annotators write D_meta. There is one file per annotator."""
