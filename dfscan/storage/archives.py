"""Archives that are read in place."""

import functools
import zipfile
from pathlib import Path
from typing import Final

MEMBER: Final = "!/"


def is_zip(path: Path) -> bool:
    """Whether a file is called a zip archive."""
    return path.suffix.lower() == ".zip"


@functools.lru_cache(maxsize=4)
def open_zip(path: str, mtime_ns: int) -> zipfile.ZipFile:
    """Opened archives are kept: a central directory of thousands is read once a process."""
    del mtime_ns  # part of the key: another archive under the same name is opened anew
    return zipfile.ZipFile(path)
