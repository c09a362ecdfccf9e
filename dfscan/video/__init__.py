"""Bytes → sampled frames. Only this package handles containers, codecs and decoders."""

from dfscan.video.reading import (
    DECODERS,
    ORDERS,
    READS,
    DecoderError,
    Frame,
    StreamInfo,
    Video,
    open_video,
)
from dfscan.video.sampling import frame_indices

__all__ = [
    "DECODERS",
    "ORDERS",
    "READS",
    "DecoderError",
    "Frame",
    "StreamInfo",
    "Video",
    "frame_indices",
    "open_video",
]
