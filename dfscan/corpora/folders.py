"""A folder per class, under any of the usual names.

Files of one name in several class folders (``real/Putin.mp4``, ``fake/Putin.mp4``) are taken for
one group: such pairs show the same person or scene, and keeping them on one side of a split can
only cost a little variety, while tearing them apart leaks. That holds as well where the two class
folders are given as two sources.
"""

from typing import Final

from dfscan.corpora.base import Layout, Source, parts, video_ref
from dfscan.records import Label, VideoRef

_NAMES: Final[dict[Label, str]] = {
    "REAL": "real reals original originals authentic genuine pristine bonafide",
    "FAKE": "fake fakes deepfake deepfakes manipulated synthetic forged forgery generated",
}
CLASS_NAMES: Final[dict[str, Label]] = {
    name: label for label, names in _NAMES.items() for name in names.split()
}


def class_of(folder: str) -> Label | None:
    """The class a folder's name stands for: ``training_fake``, ``0_real`` and ``Fakes`` count."""
    words = folder.lower().removesuffix(".zip").replace("-", "_").replace(" ", "_").split("_")
    found = {CLASS_NAMES[w] for w in words if w in CLASS_NAMES}
    return found.pop() if len(found) == 1 else None


def recognises(source: Source) -> bool:
    """At least one video lies in a folder with a class's name."""
    return any(_class_index(source, e.path) is not None for e in source.videos())


def read(source: Source) -> list[VideoRef]:
    """Every video; those outside the class folders have no label."""
    refs = []
    for entry in source.videos():
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
    """Where in (source, folders…) the class's folder is: the innermost that names one."""
    folders = (source.name, *parts(path)[:-1])
    return next((i for i in reversed(range(len(folders))) if class_of(folders[i])), None)


LAYOUT = Layout("folders", recognises, read)
