"""Finished runs against each other: what is found, measured and said about it."""
