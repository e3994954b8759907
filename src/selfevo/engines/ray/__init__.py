"""Generation by several workers on a Ray cluster. Nothing outside of this folder imports Ray."""
