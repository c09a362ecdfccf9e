"""Layouts on disk → :class:`~dfscan.records.VideoRef`.

Adding a layout is one file with a :class:`~dfscan.corpora.base.Layout` and one line in
:data:`LAYOUTS`; the contract suite then tests it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from dfscan import storage
from dfscan.corpora import dfdc, ffpp, flat, folders
from dfscan.corpora.base import VIDEO_SUFFIXES, Layout, Source
from dfscan.errors import SourceError
from dfscan.records import VideoRef

LAYOUTS: Final[Mapping[str, Layout]] = {
    "dfdc": dfdc.LAYOUT,
    "ffpp": ffpp.LAYOUT,
    "folders": folders.LAYOUT,
    "flat": flat.LAYOUT,
}
"""In the order in which ``auto`` tries them: the first that recognises a source reads it."""


def list_videos(sources: Iterable[str], layout: str = "auto") -> list[VideoRef]:
    """Every video of the sources, sorted by ``video_id``.

    :raises SourceError: a source is missing or holds no video, or two share a name.
    """
    names: dict[str, str] = {}
    refs: list[VideoRef] = []
    for text in sources:
        source = open_source(text)
        if source.name in names:
            raise SourceError(
                f"two sources are called {source.name!r} ({names[source.name]}, {text}): their "
                f"video_ids would clash; rename one, or give the folder above both"
            )
        names[source.name] = text
        reader = recognise(source) if layout == "auto" else LAYOUTS[layout]
        refs += reader.read(source)
    return sorted(refs, key=lambda r: r.video_id)


def open_source(text: str) -> Source:
    """List one source.

    :raises SourceError: it is missing or holds no video.
    """
    path = Path(text).absolute()
    entries = storage.list_source(text)
    source = Source(name=path.name or "root", entries=tuple(entries), is_file=path.is_file())
    if not source.videos():
        kinds = Counter(Path(e.path).suffix or "(none)" for e in entries).most_common(3)
        found = ", ".join(f"{n} {suffix}" for suffix, n in kinds) or "nothing"
        raise SourceError(
            f"source {text!r} holds no video (found {found}; videos end in "
            f"{', '.join(sorted(VIDEO_SUFFIXES))})"
        )
    return source


def recognise(source: Source) -> Layout:
    """The layout that ``auto`` takes for a source."""
    return next(layout for layout in LAYOUTS.values() if layout.recognises(source))
