"""Backbones, network inputs, and the model file."""
