"""Truth from beside the verdicts: a table, DFDC's ``metadata.json`` or ``labels.csv``, a source.

A table (``.csv``, ``.parquet``) names its videos in the first of the columns :data:`NAMES` that it
has, and has ``label`` (REAL, FAKE, 0, 1; empty is null); ``original`` and ``group`` may follow, and
other columns of text are attributes. A source is anything that extract and score take, and its
layout knows the labels.
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
"""The attribute that holds a video's part where a source tells it, or a table has such a column."""
_KINDS: Final = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Matched:
    """Which video is what, by ``video_id``.

    The ``ambiguous`` share their file name with another video, or with lines of the file that
    differ; of the file's lines ``unused`` name no video.
    """

    records: Mapping[str, LabelRecord]
    ambiguous: frozenset[str] = frozenset()
    unused: int = 0


def read_truth(path: str, layout: str = "auto") -> dict[str, LabelRecord]:
    """What a file of labels or a labelled source says of each video, see :func:`read_labels`.

    Of a source everything is record that its layout knows: label, original, group, attributes, and
    the part as the attribute :data:`PART`. Its videos are called by their ``video_id``.

    :param layout: where a source's labels come from, as of :func:`~dfscan.corpora.list_videos`.
    :raises SourceError: there is neither, or it says nothing of any label.
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
    """What a file of labels says, by the ``video_id``, path or file name that it uses.

    :raises SourceError: there is none, it is of another kind, it lacks a column, holds a label that
        is none, or says two things of one video.
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
                f"{uri}: {name!r} is {first.label} and {record.label}: leave one of the two",
                code="labels.conflict",
            )
    if not found:
        raise SourceError(f"{uri} holds no labels: it needs a line a video", code="labels.missing")
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
    """Find each video's label: by its ``video_id``, else by a file name that only it has."""
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
    """The group of each video: whatever shares an original, a named group or its very bytes.

    :param records: ``video_id`` → what is record of it, as far as it is.
    :param contents: ``video_id`` → SHA-256 of its content, of every video.
    """
    named: dict[str, list[str]] = defaultdict(list)
    for video in contents:
        named[_name(video)].append(video)
    links: list[tuple[str, ...]] = []
    for video, content in contents.items():
        record = records.get(video, LabelRecord())
        # What begins with a zero byte is no video_id, so that none is taken for a video.
        links.append((video, f"\0content:{content}" if content else video))
        if record.group:
            links.append((video, f"\0group:{record.group}"))
        if record.original:
            links.append((video, _original(record.original, contents, named)))
    found = connected(links)
    return {video: found[video] for video in contents}


def _original(text: str, videos: Mapping[str, str | None], named: Mapping[str, list[str]]) -> str:
    """An original as a ``video_id`` where it is one of the videos, else as a name of its own."""
    if text in videos:
        return text
    alike = named.get(_name(text), [])
    return alike[0] if len(alike) == 1 else f"\0original:{text}"


def _name(path: str) -> str:
    return parts(path)[-1] if parts(path) else path
