"""Places as values: a path of a file system, or one of an object store with ``pathlib``'s names.

``pathlib`` itself folds ``s3://bucket`` to ``s3:/bucket``, so an object has a class of its own. It has no
``__fspath__`` and none of the methods that touch a disk: whatever opens a place goes through this package.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, TypeAlias

from dfscan.errors import SourceError
from dfscan.storage.places import SCHEMES, absolute, is_uri

_FOLDED: Final = re.compile(rf"^({'|'.join(SCHEMES)}):/[^/]")


@dataclass(frozen=True, order=True, slots=True)
class ObjectPath:
    """An object, or the objects whose names begin so; ``uri`` as :func:`dfscan.storage.absolute` has it."""

    uri: str

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(f"{self.uri}/{name}")

    @property
    def name(self) -> str:
        """What stands behind the last ``/``; of a bucket its name."""
        return self.uri.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        """What holds it; a bucket holds itself."""
        above = self.uri.rpartition("/")[0]
        return self if above.endswith("/") else ObjectPath(above)

    def with_name(self, name: str) -> "ObjectPath":
        """Its neighbour of this name."""
        return self.parent / name

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def resolve(self) -> "ObjectPath":
        """Itself: stores have no links."""
        return self


Place: TypeAlias = Path | ObjectPath
"""Where a file or a folder of files is."""

Where: TypeAlias = str | Place
"""A place, or the text of one."""


def place(where: str | os.PathLike[str] | ObjectPath) -> Place:
    """The place that a text names; a path stays as it is, relative or not.

    :raises SourceError: a URI of a kind that is not known, one with a password in it, or one that
        ``pathlib`` has folded.
    """
    if isinstance(where, ObjectPath):
        return where
    text = os.fspath(where)
    if not is_uri(text):
        if _FOLDED.match(text):
            raise SourceError(
                f"{text!r} was a URI before pathlib took it for a path: give it as text"
            )
        return Path(where)
    uri = absolute(text)
    return ObjectPath(uri) if is_uri(uri) else Path(uri)
