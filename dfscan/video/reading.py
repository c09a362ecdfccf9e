"""Two decoders behind one interface.

decord is the fast path. Whatever it does not deliver cleanly (a damaged packet, an error that
FFmpeg hides by inventing pixels, repeated timestamps, a count that differs from the container's)
raises :class:`DecoderTrouble`, and the caller decodes the whole clip again with PyAV, which goes on
after damage and counts what was lost: one decoder a clip, never half and half, and never a frame
shown twice for a lost one.

A frame after which the decoder could not be right is lost as well: one flipped bit in a key frame
leaves every frame up to the next one in smears, most of them delivered without a word.
"""

import contextlib
import functools
import importlib.metadata
import io
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from dfscan.errors import DfscanError, VideoError
from dfscan.video import containers

_B: Final = av.video.frame.PictureType.B

BATCH_BYTES: Final = 64 << 20
"""decord allocates a batch whole; frames are asked for in batches of about so many bytes."""


class DecoderTrouble(Exception):  # noqa: N818  (a signal between decoders, not an error of dfscan)
    """This decoder cannot deliver this clip faithfully; the next one should try."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a container says of its first video stream.

    ``width`` and ``height`` are of the displayed frame in pixels, after ``rotation`` (degrees,
    clockwise). ``frames_claimed`` is null where the container does not count.
    """

    container: str
    codec: str
    bit_depth: int
    width: int
    height: int
    rotation: int
    fps: float | None
    duration_s: float | None
    frames_claimed: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: ``rgb`` is (H, W, 3) uint8 as displayed, ``pts_s`` in seconds."""

    index: int
    pts_s: float
    key_frame: bool
    rgb: npt.NDArray[np.uint8]


class Video(ABC):
    """An open video. ``frames_decoded`` and ``frames_lost`` hold once ``read`` is exhausted."""

    decoder: str
    info: StreamInfo
    count: int
    frames_decoded: int = 0
    frames_lost: int = 0
    frames_damaged: int = 0
    """Those of the lost that were delivered, with pixels that are not the video's."""

    @abstractmethod
    def read(self, indices: Sequence[int]) -> Iterator[list[Frame]]:
        """The frames at ascending ``indices`` in batches; lost ones are left out.

        :raises DecoderTrouble: another decoder should read the whole clip.
        """


def open_video(data: bytes, decoder: str) -> Video:
    """Open a video held in memory.

    :param decoder: a key of :data:`DECODERS`.
    :raises VideoError: ``not_video``, ``refused``, ``unsupported`` or ``decode_error``.
    :raises DecoderTrouble: as in :meth:`Video.read`.
    """
    container = containers.recognise(data[: containers.HEAD])
    return DECODERS[decoder](data, container)


def decoder_version(decoder: str) -> str:
    """``"decord2 3.4.0"``: the distribution behind a decoder, as custody records it."""
    distribution = {"decord": "decord2", "pyav": "av", "pillow": "pillow"}[decoder]
    return f"{distribution} {importlib.metadata.version(distribution)}"


# ---------------------------------------------------------------- PyAV


class _PyAVVideo(Video):
    """Decodes every packet, goes on after damaged ones, and counts what is missing."""

    decoder = "pyav"

    def __init__(self, data: bytes, container: str) -> None:
        self._data, self._container = data, container
        self.info = probe(data, container)
        scan = _scan_packets(data, container)
        self._table, self._discarded = scan.times, scan.discarded
        self.count = len(self._table) or (self.info.frames_claimed or 0)

    def read(self, indices: Sequence[int]) -> Iterator[list[Frame]]:
        """See :meth:`Video.read`."""
        wanted = set(indices)
        seen: set[int] = set()
        damaged: set[int] = set()
        turns = self.info.rotation // 90
        with _open(self._data, self._container) as container:
            stream = _video_stream(container)
            stream.thread_count = 1
            for order, (frame, intact) in enumerate(_decode(container, stream)):
                index = self._table.get(frame.pts, order) if self._table else order
                if index in seen or index in damaged:
                    continue
                (seen if intact else damaged).add(index)
                if index in wanted and intact:
                    rgb = np.ascontiguousarray(np.rot90(_rgb(frame), -turns))
                    fallback = index / (self.info.fps or 25.0)
                    time = float(frame.time) if frame.time is not None else fallback
                    yield [Frame(index, time, bool(frame.key_frame), rgb)]
        self.frames_decoded = len(seen)
        claimed = max((self.info.frames_claimed or 0) - self._discarded, len(self._table))
        self.frames_lost = max(0, claimed - len(seen), len(damaged))
        self.frames_damaged = len(damaged)


@dataclass(frozen=True, slots=True)
class _Packets:
    """What the packets of a stream say without decoding any.

    ``times``: time stamp → index in presentation order, {} where packets have none;
    ``discarded``: packets that an edit list takes out of the presentation.
    """

    times: Mapping[int, int]
    discarded: int
    time_base: float


def _scan_packets(data: bytes, container: str) -> _Packets:
    stamps: list[int] = []
    discarded = 0
    with _open(data, container) as opened:
        stream = _video_stream(opened)
        base = float(stream.time_base or 0)
        for packet in _packets(opened, stream):
            if packet.size == 0:
                continue
            if packet.pts is None:
                return _Packets({}, 0, base)
            if _is_hidden(stream.codec_context.name, memoryview(packet)):
                continue
            if packet.is_discard:
                discarded += 1
            else:
                stamps.append(packet.pts)
    return _Packets({pts: i for i, pts in enumerate(sorted(set(stamps)))}, discarded, base)


def _is_hidden(codec: str, packet: memoryview) -> bool:
    """Whether a packet holds nothing but a frame that others are predicted from, never shown.

    Bits of the first byte: RFC 6386 (VP8), section 9.1; VP9 bitstream specification 0.6, 6.2 and
    Annex B (a superframe ends with its index and shows one of its frames).
    """
    first, last = packet[0], packet[-1]
    if codec.startswith("vp8"):
        return not first >> 4 & 1
    if not codec.startswith(("vp9", "libvpx-vp9")) or last & 0xE0 == 0xC0:
        return False
    place = 2 if first >> 4 & 3 == 3 else 3  # profile 3 has one more bit before
    if first >> place & 1:
        return False  # shows a frame that was decoded before
    return not first >> (place - 2) & 1


def probe(data: bytes, container: str) -> StreamInfo:
    """What the container says, from its headers.

    :raises VideoError: ``decode_error`` (unreadable), ``not_video`` (no picture stream) or
        ``unsupported`` (a codec that is not built in).
    """
    with _open(data, container) as opened:
        stream = _video_stream(opened)
        context = stream.codec_context
        rotation = _rotation(data, container)
        width, height = context.width, context.height
        if width <= 0 or height <= 0:
            raise VideoError("decode_error", "the container gives no picture size")
        if rotation % 180:
            width, height = height, width
        duration = None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
        elif opened.duration is not None:
            duration = opened.duration / av.time_base
        return StreamInfo(
            container=container,
            codec=context.name,
            bit_depth=context.format.components[0].bits if context.format else 8,
            width=width,
            height=height,
            rotation=rotation,
            fps=float(stream.average_rate) if stream.average_rate else None,
            duration_s=duration,
            frames_claimed=stream.frames or None,
        )


def _open(data: bytes, container: str) -> Any:
    try:
        return av.open(io.BytesIO(data), format=container)
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise VideoError(
            "decode_error", f"the {container} container is cut off or damaged: {_text(error)}"
        ) from None


def _video_stream(container: Any) -> Any:
    if not container.streams.video:
        raise VideoError("not_video", "the container holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("unsupported", "no decoder for this codec is built in")
    return stream


def _rotation(data: bytes, container: str) -> int:
    """Degrees clockwise, 0, 90, 180 or 270, as the first frame's display matrix says."""
    with _open(data, container) as opened:
        stream = _video_stream(opened)
        stream.thread_count = 1
        for frame, _ in _decode(opened, stream):
            return int(round(-frame.rotation / 90) * 90 % 360)
    return 0


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.error.FFmpegError):
            return  # a container that breaks off: what came before it counts


def _decode(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """(frame, whether its pixels are the video's) as the decoder delivers them.

    From damage up to the next key frame that is whole none is: all are predicted from it. Frames
    predicted from both sides wait for the one behind them.
    """
    intact = True
    waiting: list[tuple[Any, bool]] = []
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            intact = False  # its frame is missing from the count
            continue
        for frame in frames:
            whole = not frame.is_corrupt
            if frame.pict_type == _B:
                waiting.append((frame, intact and whole))
                continue
            known = all(ok for _, ok in waiting) and whole
            yield from ((held, intact and known) for held, _ in waiting)
            waiting.clear()
            intact = whole and (intact or frame.key_frame)
            yield frame, intact
    yield from waiting


def _rgb(frame: Any) -> npt.NDArray[np.uint8]:
    rgb: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    return rgb


# ---------------------------------------------------------------- decord


class _DecordVideo(Video):
    """decord, one thread, exact frames, checked for what it is known to get wrong."""

    decoder = "decord"

    def __init__(self, data: bytes, container: str) -> None:
        decord = _decord()
        self.info = probe(data, container)
        if self.info.bit_depth > 8:
            raise DecoderTrouble(f"decord gives other pixels at {self.info.bit_depth} bits")
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1, fault_tol=1e-9)
            self.count = len(self._reader)
            times = self._reader.get_frame_timestamp(range(self.count))[:, 0]
            self._keys = frozenset(self._reader.get_key_indices())
        except (decord.DECORDError, AssertionError, IndexError, RuntimeError) as error:
            raise DecoderTrouble(f"decord cannot open it: {_text(error)}") from None
        if self.info.frames_claimed not in (None, self.count):
            raise DecoderTrouble(
                f"decord counts {self.count} frames, the container {self.info.frames_claimed}"
            )
        if not np.all(np.diff(times) > 0):
            raise DecoderTrouble("decord gives time stamps that repeat or run backwards")
        scan = _scan_packets(data, container)
        if len(scan.times) != self.count or scan.discarded:
            raise DecoderTrouble(
                f"decord counts {self.count} frames, {len(scan.times)} are to be shown"
            )
        self._times = np.array(sorted(scan.times)) * scan.time_base

    def read(self, indices: Sequence[int]) -> Iterator[list[Frame]]:
        """See :meth:`Video.read`."""
        decord = _decord()
        step = max(1, BATCH_BYTES // (self.info.width * self.info.height * 3))
        for start in range(0, len(indices), step):
            chunk = list(indices[start : start + step])
            with _complaints() as complaints:
                try:
                    batch = self._reader.get_batch(chunk).asnumpy()
                except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
                    raise DecoderTrouble(f"decord stopped: {_text(error)}") from None
            if complaints:
                raise DecoderTrouble(f"decord hides damage: {complaints[0]}")
            if batch.shape != (len(chunk), self.info.height, self.info.width, 3):
                raise DecoderTrouble(f"decord gives frames of shape {batch.shape}")
            yield [
                Frame(i, float(self._times[i]), i in self._keys, rgb)
                for i, rgb in zip(chunk, batch, strict=True)
            ]
        self.frames_decoded = self.count


@functools.lru_cache(maxsize=1)
def _decord() -> Any:
    """The decord module, quiet; it must be decord2's, since both install the same files."""
    installed = [n for n in ("decord", "decord2") if _installed(n)]
    if installed != ["decord2"]:
        raise DfscanError(
            f"installed: {' and '.join(installed) or 'neither decord nor decord2'}; dfscan needs "
            "decord2 alone, since both write the same files: "
            "pip uninstall -y decord decord2 && pip install decord2"
        )
    import decord

    decord.logging.set_level(decord.logging.ERROR)  # what it says is read, see _complaints
    return decord


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What FFmpeg says on stderr meanwhile, line by line; the list fills when the block ends.

    decord hands on frames in which FFmpeg hid an error, and tells nothing of it otherwise.
    """
    lines: list[str] = []
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(real, 2)
            os.close(real)
            said.seek(0)
            text = said.read(1 << 16).decode(errors="replace")
            lines += (line[:160] for line in text.splitlines() if line.strip())


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _text(error: BaseException) -> str:
    """The first line of an error, without the decoder's stack."""
    if isinstance(error, av.error.FFmpegError):
        return str(error.strerror)
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


DECODERS: Final[Mapping[str, type[_DecordVideo] | type[_PyAVVideo]]] = {
    "decord": _DecordVideo,
    "pyav": _PyAVVideo,
}
"""In the order in which they are tried."""
