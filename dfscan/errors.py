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

A message is one line: what is wrong, where, what is allowed, what to do. A code is for programs.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

CODES: Final[Mapping[str, str]] = {
    "calibration.unavailable": "The model has no calibration for what is asked, or none can be fitted.",
    "cluster.failed": "Ray lost the work, or a worker failed.",
    "cluster.unreachable": "No Ray cluster answers at the address.",
    "cluster.version": "A worker has another dfscan, or lacks its libraries.",
    "config.invalid": "A configuration value is not allowed.",
    "config.missing": "A value that the command needs was not given.",
    "config.unknown_key": "A configuration key does not exist.",
    "config.unknown_name": "A preset, command or kind of this name does not exist.",
    "config.unreadable": "A configuration file cannot be read or is not valid YAML.",
    "dataset.leak": "Related videos are on two sides of the split.",
    "dataset.unsuitable": "The faces do not allow what is asked: too few, or of one class only.",
    "device.unavailable": "There is no GPU, or it cannot do the work.",
    "evidence.too_few": "Too few labelled videos for the figure or threshold that is asked for.",
    "failed": "The work could not be finished.",
    "install.incomplete": "A package is missing, or two packages exclude each other.",
    "labels.conflict": "Two labels of one video contradict each other.",
    "labels.missing": "No video has a label.",
    "lock.lost": "Another run took the output over.",
    "model.changed": "A model file was replaced during the run.",
    "model.invalid": "A file is not a dfscan model, is damaged, or does not fit.",
    "model.missing": "No model was given, or none is at the path.",
    "model.unsafe": "A model file could run code or refers to other files; it is not opened.",
    "model.unsupported": "A newer dfscan wrote the model.",
    "output.exists": "The output is there already; choose another --out, or --overwrite.",
    "output.foreign": "The output holds something that dfscan did not write.",
    "output.invalid": "The output cannot be used.",
    "output.locked": "Another run is writing to the output.",
    "output.mismatch": "The output was made with another configuration or from other data.",
    "output.unwritable": "The output cannot be written.",
    "output.wrong_kind": "The output is a folder instead of a file, or the other way round.",
    "recipe.mismatch": "Faces or verdicts were made in a way that does not fit the model or each other.",
    "record.damaged": "A file of dfscan is damaged.",
    "record.unsupported": "This dfscan cannot replay what a record says.",
    "source.credentials": "A URI holds a password.",
    "source.duplicate": "A source, dataset or video is given twice.",
    "source.empty": "A source holds nothing that can be used.",
    "source.invalid": "A source is not what it should be.",
    "source.many_missing": "Many known videos are not at the source; is a disk unmounted?",
    "source.missing": "No source was given, or none is at the path.",
    "source.too_large": "A list has too many rows, columns or bytes.",
    "source.unfinished": "The run that makes the source has not finished.",
    "source.unreadable": "A source cannot be read.",
    "source.wrong_kind": "A source is of another kind than the command takes.",
    "store.failed": "An object store cannot be reached, or refuses.",
    "training.diverged": "The network gives values that are not finite.",
    "usage": "The command cannot run as it was given.",
    "video": "One video cannot be used; its row has the status and the reason.",
    "work.lost": "Committed results disappeared; another program changes the output, or workers do not see it.",
}
"""Every code and what it means; docs/errors.md shows this table."""


class DfscanError(Exception):
    """Base of all errors that dfscan raises on purpose.

    :param message: one line for a person; its wording may change.
    :param code: a key of :data:`CODES` for programs, which does not change; default: the class's.
    """

    exit_code = 1
    default_code = "failed"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)  # errors travel between processes


class UsageError(DfscanError):
    """The command cannot run as it was given."""

    exit_code = 2
    default_code = "usage"


class ConfigError(UsageError):
    """A configuration key is unknown or its value is not allowed."""

    default_code = "config.invalid"


class SourceError(UsageError):
    """A source is missing, empty, or not what its layout says."""

    default_code = "source.invalid"


class OutputError(UsageError):
    """An output is in use by another run, or holds the result of another configuration."""

    default_code = "output.invalid"


class ModelError(UsageError):
    """A file that should be a dfscan model is not one, or cannot be used here."""

    default_code = "model.invalid"


class ClusterError(DfscanError):
    """Ray cannot be reached, or lost what it was running."""

    default_code = "cluster.failed"


class StoreError(DfscanError):
    """An object store that cannot be reached, or that refuses."""

    default_code = "store.failed"


class VideoError(DfscanError):
    """One video cannot be used; becomes its row's ``status`` and ``reason``."""

    default_code = "video"

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.reason)


def did_you_mean(name: str, allowed: Iterable[str], show: int = 8) -> str:
    """``"did you mean 'stride'?"`` where a name is close, else the allowed names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    more = f", … ({len(names)} in all)" if len(names) > show else ""
    return "allowed: " + ", ".join(names[:show]) + more
