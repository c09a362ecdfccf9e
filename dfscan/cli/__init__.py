"""The command line: verb → configuration → job. Everything heavy is imported by the verb."""

from dfscan.cli.app import main

__all__ = ["main"]
