"""Bytes → sampled frames. The only place that knows containers, codecs and decoders."""

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
