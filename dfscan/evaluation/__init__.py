"""Metrics, and verdicts joined with their labels. No torch."""
