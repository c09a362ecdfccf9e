"""Verdict files and folders on disk."""
