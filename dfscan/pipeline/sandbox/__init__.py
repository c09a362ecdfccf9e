"""Processes that decode untrusted files with no rights of their own."""
