"""Unlabelled videos and pictures in any folders. Each is its own group."""

from dfscan.corpora.base import Layout, Source, video_ref
from dfscan.schemas.records import VideoRef


def matches(source: Source) -> bool:
    """Always true: the layout for sources that no other matches."""
    del source
    return True


def read(source: Source) -> list[VideoRef]:
    """Every video and picture, unlabelled."""
    return [
        video_ref(source, e, part=source.name, label=None, group=source.video_id(e.path))
        for e in source.media()
    ]


LAYOUT = Layout("flat", matches, read)
