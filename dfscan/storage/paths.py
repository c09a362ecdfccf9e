"""Storage paths: a ``pathlib.Path``, or an object-store path with the same property names.

``pathlib`` folds ``s3://bucket`` to ``s3:/bucket``, so objects need their own class. It has no
``__fspath__`` and no method that touches a disk: every access goes through this package.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from dfscan.errors import SourceError
from dfscan.storage.backend import SCHEMES, absolute, is_uri

_FOLDED: Final = re.compile(rf"^({'|'.join(SCHEMES)}):/[^/]")


@dataclass(frozen=True, order=True, slots=True)
class ObjectPath:
    """An object or an object prefix; ``uri`` is normalised by :func:`dfscan.storage.absolute`."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """The text after the last ``/``; for a bucket its name."""
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """The parent prefix; a bucket is its own parent."""
        above = self.uri.rpartition("/")[0]
        return self if above.endswith("/") else ObjectPath(above)

    def with_name(self, name: str) -> "ObjectPath":
        """The path with its name replaced."""
        return self.parent / name

    def absolute(self) -> "ObjectPath":
        """The path itself: it is always absolute."""
        return self

    def resolve(self) -> "ObjectPath":
        """The path itself: object stores have no links."""
        return self


StoragePath: TypeAlias = Path | ObjectPath
"""The location of a file or folder: a local path or an object-store key."""

PathLike: TypeAlias = str | StoragePath
"""A :data:`StoragePath`, or its text."""


def as_path(where: str | os.PathLike[str] | ObjectPath) -> StoragePath:
    """Convert text to a :data:`StoragePath`; local paths stay as they are, relative or absolute.

    :raises SourceError: the URI has an unknown scheme, contains a password, or was folded by
        ``pathlib``.
    """
    if isinstance(where, ObjectPath):
        return where
    text = os.fspath(where)
    if not is_uri(text):
        if _FOLDED.match(text):
            raise SourceError(f"{text!r} is a URI that pathlib has shortened: pass it as text")
        return Path(where)
    uri = absolute(text)
    return ObjectPath(uri) if is_uri(uri) else Path(uri)
