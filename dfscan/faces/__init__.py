"""Frames → boxes → crops."""
