"""The FaceForensics++ tree.

``original_sequences/youtube/c23/videos/519.mp4`` and
``manipulated_sequences/Deepfakes/c23/videos/519_515.mp4``: ``A_B`` puts the face of source B on
target A. Both belong to one group with A_B's reverse B_A, so groups are the connected parts of
that graph. Mask videos (``…/masks/videos/…``) are no clips and are left out. DeepFakeDetection's ``01_02__scene__CODE`` has the original ``actors/…/01__scene``.
"""

import re
from typing import Final

from dfscan.corpora.base import Layout, Source, connected, parts, video_ref
from dfscan.records import Label, VideoRef
from dfscan.storage import Entry

_ROOTS: Final[dict[str, Label]] = {"original_sequences": "REAL", "manipulated_sequences": "FAKE"}
_PAIR: Final = re.compile(r"^(?P<target>\d+)_(?P<source>\d+)(__(?P<scene>.+)__\w+)?$")
_SINGLE: Final = re.compile(r"^(?P<target>\d+)(__(?P<scene>.+))?$")


def recognises(source: Source) -> bool:
    """The tree's two well-known folder names occur."""
    return any(_root_index(source, e) is not None for e in source.entries)


def read(source: Source) -> list[VideoRef]:
    """Every video with manipulation, compression and group."""
    clips = [e for e in source.videos() if "masks" not in parts(e.path)]
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


def _stem(entry: Entry) -> str:
    name = parts(entry.path)[-1] if parts(entry.path) else parts(entry.uri)[-1]
    return name.rsplit(".", 1)[0]


def _people(entry: Entry) -> tuple[str, ...]:
    """The ids a video shows: target and source of a fake, one id of an original.

    Actors of DeepFakeDetection (two digits) and YouTube clips (three) have numbers of their own.
    """
    match = _PAIR.match(_stem(entry))
    if match:
        kind = "actor-" if match["scene"] else ""
        return kind + match["target"], kind + match["source"]
    match = _SINGLE.match(_stem(entry))
    return (("actor-" if match["scene"] else "") + match["target"],) if match else ()


def _original(source: Source, entry: Entry) -> str | None:
    match = _PAIR.match(_stem(entry))
    if not match:
        return None
    names = parts(entry.path)
    if "manipulated_sequences" not in names:
        return None
    root = names.index("manipulated_sequences")
    origin = "actors" if match["scene"] else "youtube"
    stem = f"{match['target']}__{match['scene']}" if match["scene"] else match["target"]
    extension = names[-1].rsplit(".", 1)[-1]
    before = entry.path[: len(entry.path) - len("/".join(names[root:]))]
    folders = ["original_sequences", origin, *names[root + 2 : -1]]
    return source.video_id(before + "/".join([*folders, f"{stem}.{extension}"]))


LAYOUT = Layout("ffpp", recognises, read)
