"""Configuration of ``dfscan models list``."""

from dfscan.config.base import CommandConfig


class ListModelsConfig(CommandConfig):
    """``dfscan models list``: detectors that can be imported."""
