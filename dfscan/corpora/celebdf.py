"""The Celeb-DF tree, versions 1 and 2 (Li et al., CVPR 2020).

``Celeb-real/id0_0000.mp4``, ``YouTube-real/00000.mp4`` and ``Celeb-synthesis/id0_id1_0000.mp4``:
the face of source id1 on target id0, made from ``Celeb-real/id0_0000.mp4``. People who occur in one
clip are one group, which makes most of ``Celeb-real`` and ``Celeb-synthesis`` a single one.
``List_of_testing_videos.txt`` (lines ``1 YouTube-real/00170.mp4``, where 1 means real) beside the
folders gives the attribute ``split``. A folder of pictures stands for the clip it is named after.
"""

import io
import re
from collections.abc import Mapping
from typing import Final

from dfscan.corpora.base import (
    Layout,
    Source,
    clip_names,
    connected,
    content,
    parts,
    video_ref,
)
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import Label
from dfscan.storage import Entry

_ROOTS: Final[dict[str, Label]] = {
    "Celeb-real": "REAL",
    "YouTube-real": "REAL",
    "Celeb-synthesis": "FAKE",
}
_LIST: Final = "List_of_testing_videos.txt"
_FAKE: Final = re.compile(r"^(?P<target>id\d+)_(?P<source>id\d+)_(?P<sequence>\d+)$")
_REAL: Final = re.compile(r"^(?P<target>id\d+)_\d+$")
_YOUTUBE: Final = re.compile(r"^\d+$")


def matches(source: Source) -> bool:
    """Whether one of the tree's three folder names occurs."""
    return any(_root_index(source, e) is not None for e in source.entries)


def read(source: Source) -> list[VideoRef]:
    """Every video with its original, its group of people and, where listed, its split."""
    tests = _tests(source)
    clips = source.media()
    people = [_people(e) for e in clips]
    groups = connected(p for p in people if p)
    refs = []
    for entry, ids in zip(clips, people, strict=True):
        root = _root_index(source, entry)
        names = (source.name, *parts(entry.path))
        group = groups[ids[0]] if ids else source.video_id(entry.path)
        refs.append(
            video_ref(
                source,
                entry,
                part=source.name if root is None else names[root],
                label=None if root is None else _ROOTS[names[root]],
                group=f"celebdf:{group}",
                original=_original(source, entry),
                attributes=_split(tests, entry),
            )
        )
    return refs


def _root_index(source: Source, entry: Entry) -> int | None:
    folders = (source.name, *parts(entry.path)[:-1])
    return next((i for i, name in enumerate(folders) if name in _ROOTS), None)


def _people(entry: Entry) -> tuple[str, ...]:
    """The ids of the people in a clip: target and source of a fake, one of a real, none of
    YouTube."""
    for _, name in clip_names(parts(entry.path) or parts(entry.uri)):
        if match := _FAKE.match(name):
            return match["target"], match["source"]
        if match := _REAL.match(name):
            return (match["target"],)
        if _YOUTUBE.match(name):
            return (f"youtube-{name}",)
    return ()


def _original(source: Source, entry: Entry) -> str | None:
    names = parts(entry.path)
    if "Celeb-synthesis" not in names:
        return None
    root = names.index("Celeb-synthesis")
    for index, name in clip_names(names):
        if match := _FAKE.match(name):
            rest = list(names[root:])
            rest[0] = "Celeb-real"
            own = names[index][len(name) :]  # a file's suffix
            rest[index - root] = f"{match['target']}_{match['sequence']}{own}"
            return source.video_id(_before(entry, root) + "/".join(rest))
    return None


def _before(entry: Entry, index: int) -> str:
    """The path up to the component with this index."""
    return entry.path[: len(entry.path) - len("/".join(parts(entry.path)[index:]))]


def _tests(source: Source) -> dict[str, frozenset[str]]:
    """The folder of each list of testing videos → the clips it names, without suffix."""
    return {
        _before(e, len(parts(e.path)) - 1): _listed(e.uri)
        for e in source.entries
        if parts(e.path)[-1:] == (_LIST,)
    }


def _listed(uri: str) -> frozenset[str]:
    lines = io.TextIOWrapper(io.BytesIO(content(uri)), "utf-8-sig", "replace")
    return frozenset(line.split()[-1].rsplit(".", 1)[0] for line in lines if line.strip())


def _split(tests: Mapping[str, frozenset[str]], entry: Entry) -> dict[str, str]:
    for folder, listed in tests.items():
        names = parts(entry.path[len(folder) :])
        if entry.path.startswith(folder) and names[0] in _ROOTS:
            clips = {"/".join((*names[:i], name)) for i, name in clip_names(names)}
            return {"split": "test" if clips & listed else "train"}
    return {}


LAYOUT = Layout("celebdf", matches, read)
