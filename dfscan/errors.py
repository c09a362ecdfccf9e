"""Every error dfscan raises on purpose.

::

    DfscanError                 exit code 1: could not finish
    ├── UsageError              exit code 2: wrong command, configuration or source
    │   ├── ConfigError             an unknown key, a value that is not allowed
    │   ├── SourceError             a source that is missing, empty or not recognised
    │   ├── OutputError             an output that is locked, or holds something else
    │   └── ModelError              a model file that is missing, damaged or not a model
    ├── ClusterError            a Ray cluster that cannot be reached, a worker that is lost
    └── VideoError              one video that cannot be read; ends as a row, never as a crash

A message is one line: what is wrong, where, what is allowed, what to do.
"""

import difflib
from collections.abc import Iterable


class DfscanError(Exception):
    """Base of all errors that dfscan raises on purpose."""

    exit_code = 1


class UsageError(DfscanError):
    """The command cannot run as it was given."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key is unknown or its value is not allowed."""


class SourceError(UsageError):
    """A source is missing, empty, or not what its layout says."""


class OutputError(UsageError):
    """An output is in use by another run, or holds the result of another configuration."""


class ModelError(UsageError):
    """A file that should be a dfscan model is not one, or cannot be used here."""


class ClusterError(DfscanError):
    """Ray cannot be reached, or lost what it was running."""


class StoreError(DfscanError):
    """An object store that cannot be reached, or that refuses."""


class VideoError(DfscanError):
    """One video cannot be used; becomes its row's ``status`` and ``reason``."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:
        return VideoError, (self.status, self.reason)


def did_you_mean(name: str, allowed: Iterable[str], show: int = 8) -> str:
    """``"did you mean 'stride'?"`` where a name is close, else the allowed names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    more = f", … ({len(names)} in all)" if len(names) > show else ""
    return "allowed: " + ", ".join(names[:show]) + more
