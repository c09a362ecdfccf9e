"""One folder per class, under any of the usual names.

Files with the same name in several class folders (``real/Putin.mp4``, ``fake/Putin.mp4``) form one
group, because such pairs show the same person or scene: separating them would leak, while keeping
them together costs only a little variety. This also holds if the class folders are given as
separate sources.
"""

import re
from typing import Final

from dfscan.corpora.base import Layout, Source, parts, video_ref
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import Label
from dfscan.storage import is_archive

_NAMES: Final[dict[Label, str]] = {
    "REAL": "real reals original originals authentic genuine pristine bonafide unaltered "
    "unmanipulated",
    "FAKE": "fake fakes deepfake deepfakes manipulated manipulation manipulations synthetic "
    "synthesis synthesized generated forged forgery forgeries tampered altered spoof spoofed "
    "faceswap faceswaps",
}
CLASS_NAMES: Final[dict[str, Label]] = {
    name: label for label, names in _NAMES.items() for name in names.split()
}
_WORD: Final = re.compile(r"[A-Z]*[a-z]+|[A-Z]+")
_NOT: Final = frozenset(["not", "non", "no"])


def class_of(folder: str) -> Label | None:
    """The class that a folder's name indicates: also ``training_fake``, ``0_real``,
    ``FakeVideos``."""
    name = folder[:-4] if is_archive(folder) else folder
    words = {w.lower() for w in _WORD.findall(name)}
    found = {CLASS_NAMES[w] for w in words if w in CLASS_NAMES}
    return found.pop() if len(found) == 1 and not words & _NOT else None


def matches(source: Source) -> bool:
    """Whether any video or picture is in a folder with a class name."""
    return any(_class_index(source, e.path) is not None for e in source.media())


def read(source: Source) -> list[VideoRef]:
    """Every video and picture; files outside the class folders have no label."""
    refs = []
    for entry in source.media():
        names = (source.name, *parts(entry.path))
        index = _class_index(source, entry.path)
        rest = names[1:] if index is None else names[max(index, 0) + 1 :]
        stem = "/".join(rest).rsplit(".", 1)[0] or source.name
        refs.append(
            video_ref(
                source,
                entry,
                part=source.name if index is None else "/".join(names[: index + 1]),
                label=None if index is None else class_of(names[index]),
                group=f"{'folders' if index == 0 else source.name}:{stem}",
            )
        )
    return refs


def _class_index(source: Source, path: str) -> int | None:
    """The index of the innermost class folder in (source, folders…)."""
    folders = (source.name, *parts(path)[:-1])
    return next((i for i in reversed(range(len(folders))) if class_of(folders[i])), None)


LAYOUT = Layout("folders", matches, read)
