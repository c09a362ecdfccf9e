"""Rows, recipes and fingerprints: what dfscan writes and reads."""
