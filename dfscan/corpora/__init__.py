"""Layouts on disk → :class:`~dfscan.schemas.records.VideoRef`.

Adding a layout is one file with a :class:`~dfscan.corpora.base.Layout` and one line in
:data:`LAYOUTS`; the contract suite then tests it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dfscan import storage
from dfscan.corpora import celebdf, dfdc, ffpp, flat, folders, lists, sidecars
from dfscan.corpora.base import MEDIA_SUFFIXES, Layout, Source, parts, suffix
from dfscan.corpora.label_records import apply_label_records
from dfscan.errors import SourceError
from dfscan.schemas.records import VideoRef

LAYOUTS: Final[Mapping[str, Layout]] = {
    "dfdc": dfdc.LAYOUT,
    "ffpp": ffpp.LAYOUT,
    "celebdf": celebdf.LAYOUT,
    "folders": folders.LAYOUT,
    "flat": flat.LAYOUT,
}
"""In the order in which ``auto`` tries them: the first layout that matches reads the source."""


@dataclass(frozen=True)
class Listing:
    """The videos of all sources.

    ``layouts`` maps each source's name to the layout that read it; ``unreadable`` lists the
    ``video_id`` of archives that could not be read. These are among ``videos`` too, so that each
    gets a row.
    """

    videos: list[VideoRef]
    layouts: dict[str, str]
    unreadable: tuple[str, ...]


def list_videos(sources: Iterable[str], layout: str = "auto") -> Listing:
    """Every video and picture of the sources, sorted by ``video_id``.

    :param layout: where labels come from. Labels in a list or in WebDataset sidecars take
        precedence; ``flat`` ignores sidecars.
    :raises SourceError: a source is missing or holds no media, two share a name, or one lies in
        another.
    """
    texts: dict[str, str] = {}
    layouts: dict[str, str] = {}
    unreadable: list[str] = []
    refs: list[VideoRef] = []
    given = list(sources)
    _check_apart(given)
    for text in given:
        source = open_source(text)
        if source.name in texts:
            raise SourceError(
                f"two sources are called {source.name!r} ({texts[source.name]}, {text}): their "
                f"video_ids would clash; rename one, or give the folder above both",
                code="source.duplicate",
            )
        texts[source.name] = text
        reader = detect_layout(source) if layout == "auto" else LAYOUTS[layout]
        layouts[source.name] = reader.name
        unreadable += (source.video_id(e.path) for e in source.unreadable())
        beside = {} if layout == "flat" else sidecars.read(source)
        found = reader.read(source)
        apply_label_records(
            source, found, {**beside, **source.records} if beside else source.records
        )
        refs += found
    storage.forget()
    return Listing(sorted(refs, key=lambda r: r.video_id), layouts, tuple(unreadable))


def open_source(text: str) -> Source:
    """List one source.

    :raises SourceError: it is missing, or holds no media but archives that must be unpacked.
    """
    uri = storage.absolute(text)
    entries = tuple(storage.list_source(text))
    name = parts(uri)[-1] if parts(uri) else "root"
    is_file = len(entries) == 1 and entries[0].path == ""
    if is_file and lists.is_list(uri):
        source = lists.open_list(uri, name)
    else:
        source = Source(name, entries, frozenset([""] if is_file else []))
    media = source.media()
    if media and all(e.closed for e in media):
        raise SourceError(media[0].closed)
    if not media:
        kinds = Counter(suffix(e.path) or "(none)" for e in source.entries).most_common(3)
        found = ", ".join(f"{n} {kind}" for kind, n in kinds) or "nothing"
        raise SourceError(
            f"source {text!r} holds no video or picture (found {found}; their names end in "
            f"{', '.join(sorted(MEDIA_SUFFIXES))})",
            code="source.empty",
        )
    return source


def _check_apart(sources: Iterable[str]) -> None:
    """Refuse a source inside another, which would give its videos two ids."""
    uris: dict[str, str] = {}
    for text in sources:
        uri = storage.absolute(text)
        if uri in uris:
            raise SourceError(
                f"source {text!r} is given twice ({uris[uri]}, {text}): give it once",
                code="source.duplicate",
            )
        uris[uri] = text
    for uri, text in uris.items():
        above = next((uris[a] for a in _above(uri) if a in uris), None)
        if above is not None:
            raise SourceError(
                f"source {text!r} lies in source {above!r}: its videos would be taken twice, under "
                f"two video_ids; give one of the two",
                code="source.duplicate",
            )


def _above(uri: str) -> Iterator[str]:
    """Every folder and archive that may contain the path."""
    for at in (i for i, c in enumerate(uri) if c == "/" and 0 < i < len(uri) - 1):
        yield uri[:at]
        if uri[at - 1] == "!":
            yield uri[: at - 1]
    if uri.startswith("/") and uri != "/":
        yield "/"


def detect_layout(source: Source) -> Layout:
    """The layout that ``auto`` chooses for a source."""
    return next(layout for layout in LAYOUTS.values() if layout.matches(source))
