"""Labels for existing verdicts: from a table, DFDC's ``metadata.json`` or ``labels.csv``, or a
source.

A table (``.csv``, ``.parquet``) identifies videos by its first column among :data:`NAMES` and has
``label`` (REAL, FAKE, 0, 1; empty is null). ``original`` and ``group`` are optional; other text
columns are attributes. A source is anything that extract and score accept, with labels from its
layout.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dfscan import storage
from dfscan.corpora import dfdc, list_videos, lists
from dfscan.corpora.base import LabelRecord, connected, parts, shared, suffix
from dfscan.errors import SourceError

NAMES: Final = ("video_id", *lists.PATHS)
PART: Final = "part"
"""The attribute for a video's part, from a source or a table's column of this name."""
_KINDS: Final = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Matched:
    """Label records by ``video_id``.

    ``ambiguous`` videos share their file name with another video, or match several lines with
    different labels; ``unused`` is the number of lines that match no video.
    """

    records: Mapping[str, LabelRecord]
    ambiguous: frozenset[str] = frozenset()
    unused: int = 0


def read_truth(path: str, layout: str = "auto") -> dict[str, LabelRecord]:
    """Read labels from a file (:func:`read_labels`) or a labelled source.

    A source gives all that its layout knows: label, original, group, attributes, and the part as
    the attribute :data:`PART`, keyed by ``video_id``.

    :param layout: where a source's labels come from, as of :func:`~dfscan.corpora.list_videos`.
    :raises SourceError: nothing is at the path, or it has no labels.
    """
    if suffix(path) in _KINDS:
        return read_labels(path)
    listing = list_videos([path], layout)
    if not any(ref.label for ref in listing.videos):
        (read_by,) = listing.layouts.values()
        raise SourceError(
            f"labels {path!r}: {len(listing.videos):,} videos and no label (layout {read_by}): give "
            "--layout, or a table with video_id or filename, and label",
            code="labels.missing",
        )
    return {
        ref.video_id: LabelRecord(
            label=ref.label,
            labelled=True,
            original=ref.original,
            group=ref.group,
            attributes=shared({**ref.attributes, PART: ref.part}),
        )
        for ref in listing.videos
    }


def read_labels(path: str) -> dict[str, LabelRecord]:
    """Read a label file: ``video_id``, path or file name, as written there → record.

    :raises SourceError: the file is missing or of another kind, lacks a column, has an invalid
        label, or two labels for one video.
    """
    uri = storage.absolute(path)
    if suffix(uri) not in _KINDS:
        raise SourceError(
            f"labels {path!r}: must be a file that ends in {', '.join(_KINDS)} (a table with "
            "video_id or filename, and label; or DFDC's metadata.json), or REAL"
        )
    if not storage.is_uri(path) and not storage.exists(path):
        raise SourceError(
            f"no labels at {path!r}: give a .csv, .parquet or DFDC's metadata.json",
            code="source.missing",
        )
    found: dict[str, LabelRecord] = {}
    for name, record in _lines(uri):
        first = found.setdefault(name, record)
        if first.label != record.label:
            raise SourceError(
                f"{uri}: {name!r} is labelled {first.label} and {record.label}: remove one of them",
                code="labels.conflict",
            )
    if not found:
        raise SourceError(f"{uri} has no labels: give one line per video", code="labels.missing")
    return found


def _lines(uri: str) -> Iterator[tuple[str, LabelRecord]]:
    if suffix(uri) == ".json":
        for clip, truth in dfdc.read_metadata(uri).items():
            yield clip, LabelRecord(label=truth.label, labelled=True, original=truth.original)
        return
    for name, record in lists.table_rows(uri, NAMES):
        if record is None or not record.labelled:
            raise SourceError(
                f"{uri} has no column label; it needs one with REAL, FAKE, 0 or 1",
                code="labels.missing",
            )
        yield name, record


def match(labels: Mapping[str, LabelRecord], video_ids: Iterable[str]) -> Matched:
    """Find each video's label: by its ``video_id``, else by its file name if that is unique."""
    videos = list(video_ids)
    shared = Counter(_name(v) for v in videos)
    by_name: dict[str, list[str]] = defaultdict(list)
    for line in labels:
        by_name[_name(line)].append(line)
    records: dict[str, LabelRecord] = {}
    used: set[str] = set()
    ambiguous: set[str] = set()
    for video in videos:
        lines = [video] if video in labels else by_name.get(_name(video), [])
        used |= set(lines)
        alone = lines == [video] or shared[_name(video)] == 1
        if lines and (not alone or len({labels[line].label for line in lines}) > 1):
            ambiguous.add(video)
        elif lines:
            records[video] = labels[lines[0]]
    return Matched(records, frozenset(ambiguous), len(labels) - len(used))


def groups(
    records: Mapping[str, LabelRecord], contents: Mapping[str, str | None]
) -> dict[str, str]:
    """The group of each video: videos that share an original, a named group or their content.

    :param records: ``video_id`` → label record, where known.
    :param contents: ``video_id`` → SHA-256 of its content, of every video.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for video in contents:
        named[_name(video)].append(video)
    links: list[tuple[str, ...]] = []
    for video, content in contents.items():
        record = records.get(video, LabelRecord())
        # The leading zero byte keeps these names apart from every video_id.
        links.append((video, f"\0content:{content}" if content else video))
        if record.group:
            links.append((video, f"\0group:{record.group}"))
        if record.original:
            links.append((video, _original(record.original, contents, named)))
    found = connected(links)
    return {video: found[video] for video in contents}


def _original(text: str, videos: Mapping[str, str | None], named: Mapping[str, list[str]]) -> str:
    """An original as a ``video_id`` if it is one of the videos, else as a separate name."""
    if text in videos:
        return text
    alike = named.get(_name(text), [])
    return alike[0] if len(alike) == 1 else f"\0original:{text}"


def _name(path: str) -> str:
    return parts(path)[-1] if parts(path) else path
