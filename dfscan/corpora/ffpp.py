"""The FaceForensics++ tree.

``original_sequences/youtube/c23/videos/519.mp4`` and
``manipulated_sequences/Deepfakes/c23/videos/519_515.mp4``: ``A_B`` puts the face of source B on
target A. A and B are one group, as in the reverse B_A, so groups are the connected components of
that graph. Mask videos (``…/masks/videos/…``) are skipped. DeepFakeDetection's
``01_02__scene__CODE`` has the original ``actors/…/01__scene``. A folder of pictures stands for the
clip it is named after.
"""

import re
from typing import Final

from dfscan.corpora.base import Layout, Source, clip_names, connected, parts, video_ref
from dfscan.schemas.records import VideoRef
from dfscan.schemas.status import Label
from dfscan.storage import Entry

_ROOTS: Final[dict[str, Label]] = {"original_sequences": "REAL", "manipulated_sequences": "FAKE"}
_PAIR: Final = re.compile(r"^(?P<target>\d+)_(?P<source>\d+)(__(?P<scene>.+)__\w+)?$")
_IDS: Final = ("target", "source")
_SINGLE: Final = re.compile(r"^(?P<target>\d+)(__(?P<scene>.+))?$")


def matches(source: Source) -> bool:
    """Whether the tree's two folder names occur."""
    return any(_root_index(source, e) is not None for e in source.entries)


def read(source: Source) -> list[VideoRef]:
    """Every video with manipulation, compression and group."""
    clips = [e for e in source.media() if "masks" not in parts(e.path)]
    ids = {e.path: _people(e) for e in clips}
    groups = connected(people for people in ids.values() if people)
    refs = []
    for entry in clips:
        root = _root_index(source, entry)
        people = ids[entry.path]
        group = groups[people[0]] if people else parts(entry.path)[-1]
        if root is None:
            refs.append(
                video_ref(source, entry, part=source.name, label=None, group=f"ffpp:{group}")
            )
            continue
        names = _names(source, entry)
        inside = names[root + 1 : -1]  # e.g. Deepfakes, c23, videos
        label = _ROOTS[names[root]]
        attributes = {"manipulation" if label == "FAKE" else "origin": inside[0]} if inside else {}
        for name in inside[1:]:
            if re.fullmatch(r"raw|c\d+", name):
                attributes["compression"] = name
        refs.append(
            video_ref(
                source,
                entry,
                part="/".join(names[root : root + 2]),
                label=label,
                group=f"ffpp:{group}",
                original=_original(source, entry) if label == "FAKE" else None,
                attributes=attributes,
            )
        )
    return refs


def _names(source: Source, entry: Entry) -> tuple[str, ...]:
    return (source.name, *parts(entry.path))


def _root_index(source: Source, entry: Entry) -> int | None:
    return next((i for i, n in enumerate(_names(source, entry)[:-1]) if n in _ROOTS), None)


def _people(entry: Entry) -> tuple[str, ...]:
    """The ids in a video's name: target and source of a fake, one id of an original.

    Actors of DeepFakeDetection (two digits) and YouTube clips (three) are numbered separately.
    """
    for _, name in clip_names(parts(entry.path) or parts(entry.uri)):
        match = _PAIR.match(name) or _SINGLE.match(name)
        if match:
            kind = "actor-" if match["scene"] else ""
            return tuple(kind + n for k, n in match.groupdict().items() if k in _IDS and n)
    return ()


def _original(source: Source, entry: Entry) -> str | None:
    names = parts(entry.path)
    if "manipulated_sequences" not in names:
        return None
    root = names.index("manipulated_sequences")
    for index, name in clip_names(names):
        if match := _PAIR.match(name):
            origin = "actors" if match["scene"] else "youtube"
            stem = f"{match['target']}__{match['scene']}" if match["scene"] else match["target"]
            own = names[index][len(name) :]  # a file's suffix
            rest = ["original_sequences", origin, *names[root + 2 :]]
            rest[index - root] = stem + own
            before = entry.path[: len(entry.path) - len("/".join(names[root:]))]
            return source.video_id(before + "/".join(rest))
    return None


LAYOUT = Layout("ffpp", matches, read)
