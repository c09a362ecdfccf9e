"""Identify containers by their first bytes, before a decoder sees the file.

FFmpeg's demuxers for playlists, concat scripts and network protocols cannot be disabled from
Python, and they follow references in a file. Therefore only the containers listed here are opened,
each with an explicit demuxer, and FFmpeg never probes for others.
"""

from typing import Final

from dfscan.errors import VideoError

HEAD: Final = 4096
"""Number of leading bytes that identify a file."""

_ISO_BOXES: Final = frozenset(
    (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof")
)
_PICTURE_BRANDS: Final = frozenset((b"heic", b"heix", b"mif1", b"avif"))

_CONTAINERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
    (b"OggS", "ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"GIF8", "gif"),
)
_REFUSED: Final[tuple[tuple[bytes, str], ...]] = (
    (b"#extm3u", "an HLS playlist"),
    (b"ffconcat", "a concat script"),
    (b"v=0", "an SDP session description"),
    (b"[playlist]", "a playlist"),
    (b"[reference]", "a playlist"),
    (b"rtsptext", "a stream reference"),
    (b"<?xml", "an XML document (perhaps a DASH manifest)"),
    (b"<mpd", "a DASH manifest"),
    (b"<smil", "a SMIL playlist"),
    (b"<asx", "an ASX playlist"),
)
_NOT_VIDEO: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"BM", "a BMP picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"ID3", "an MP3 file"),
    (b"fLaC", "a FLAC file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)


def recognise(head: bytes) -> str:
    """The name of FFmpeg's demuxer for a file that starts with ``head``.

    :param head: the first :data:`HEAD` bytes, fewer for a shorter file.
    :raises VideoError: ``not_video`` or ``refused``, saying what the file is.
    """
    if not head:
        raise VideoError("not_video", "the file is empty")
    if head[4:8] in _ISO_BOXES:
        if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
            raise VideoError("not_video", "a HEIF or AVIF picture, not a video")
        return "mov"
    if head[:4] == b"RIFF":
        if head[8:12] == b"AVI ":
            return "avi"
        kind = {b"WAVE": "a WAV file", b"WEBP": "a WebP picture"}.get(head[8:12], "a RIFF file")
        raise VideoError("not_video", f"{kind}, not a video")
    for magic, name in _CONTAINERS:
        if head.startswith(magic):
            return name
    if _is_transport_stream(head):
        return "mpegts"
    raise _refusal(head)


def _refusal(head: bytes) -> VideoError:
    """The error for a file that no allowed demuxer opens."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in _REFUSED:
        if start.startswith(magic):
            return VideoError("refused", f"{what}: files that refer to others are not followed")
    for magic, what in _NOT_VIDEO:
        if head.startswith(magic):
            return VideoError("not_video", f"{what}, not a video")
    if all(32 <= b < 127 or b in b"\t\r\n\f" for b in head):
        return VideoError("not_video", "a text file, not a video")
    return VideoError("not_video", "not a known video container")


def _is_transport_stream(head: bytes) -> bool:
    """Sync byte 0x47 every 188 bytes (192 with the time stamps of M2TS)."""
    for start, packet in ((0, 188), (4, 192)):
        marks = head[start::packet]
        if len(marks) >= 3 and set(marks) == {0x47}:
            return True
    return False
