"""Three decoders behind one interface.

``sparse`` is the fast path: PyAV, skipping frames from which no wanted frame is predicted. Its
pixels equal those of a full decode, in less than two thirds of decord's time. ``decord`` decodes
everything up to the last wanted frame. If either finds a problem (a damaged packet, an error that
FFmpeg conceals with invented pixels, repeated time stamps, a count that differs from the
container's), it raises :class:`DecoderError`, and the caller decodes the whole clip again with
``pyav``, which continues after damage and counts lost frames. One clip is always read by one
decoder, and a lost frame is never replaced by another.

Frames predicted from a damaged one are lost as well: one flipped bit in a key frame smears every
frame up to the next, and most of them are delivered without an error. Damage that affects only
frames that the fast path skips, or frames after the last wanted one, goes unnoticed.
"""

import bisect
import contextlib
import functools
import importlib.metadata
import io
import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

from dfscan.errors import DfscanError, VideoError
from dfscan.schemas.recipe import SamplingMode
from dfscan.video import containers, h264

_B: Final = av.video.frame.PictureType.B

_TELLING: Final = frozenset(("h264", "mpeg1video", "mpeg2video", "mpeg4"))
"""Codecs with reliable non-reference marks.

In HEVC the mark is valid only within one temporal layer; VP9 and AV1 have no such mark.
"""

_KEPT_BYTES: Final = 64 << 20

BATCH_BYTES: Final = 64 << 20
"""Frames are delivered in batches of about this many bytes."""


class DecoderError(Exception):
    """This decoder cannot decode this clip faithfully: try the next one."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The container's description of its first video stream.

    ``width`` and ``height`` are those of the displayed frame in pixels, after ``rotation``
    (degrees, clockwise). ``frames_claimed`` is None if the container has no frame count.
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
    """An open video.

    ``frames_decoded`` and ``frames_lost`` are valid once ``read`` is exhausted.
    """

    decoder: str
    info: StreamInfo
    count: int
    frames_decoded: int = 0
    frames_lost: int = 0
    frames_damaged: int = 0
    """Lost frames that the decoder delivered with damaged pixels."""

    frames_missed: int = 0
    """Requested frames that could not be read."""

    @abstractmethod
    def read(self, indices: Sequence[int], mode: SamplingMode = "exact") -> Iterator[list[Frame]]:
        """Yield the frames at ascending ``indices`` in batches, without lost ones.

        :param mode: ``nearest`` and ``keyframes`` (PyAV only) skip frames and take the nearest
            decoded one, so there may be fewer frames than ``indices``.
        :raises DecoderError: another decoder should read the whole clip.
        """


def open_video(data: bytes, decoder: str) -> Video:
    """Open a video held in memory.

    :param decoder: a key of :data:`DECODERS`.
    :raises VideoError: ``not_video``, ``refused``, ``unsupported`` or ``decode_error``.
    :raises DecoderError: as in :meth:`Video.read`.
    """
    container = containers.recognise(data[: containers.HEAD])
    return DECODERS[decoder](data, container)


def in_order(video: Video) -> Iterator[Frame]:
    """Yield every frame of a clip in order of time; some containers deviate slightly from it.

    :raises DecoderError: as in :meth:`Video.read`.
    """
    for batch in video.read(range(video.count)):
        yield from sorted(batch, key=lambda frame: frame.pts_s)


def load_decoders(decoders: Sequence[str]) -> None:
    """Load the libraries of these decoders ahead of the first video.

    :raises DfscanError: one is not installed correctly.
    """
    if "decord" in decoders:
        _decord()


def decoder_version(decoder: str) -> str:
    """``"decord2 3.4.0"``: a decoder's distribution, as recorded in ``custody``."""
    distribution = {"decord": "decord2", "pyav": "av", "pillow": "pillow"}[decoder]
    return f"{distribution} {importlib.metadata.version(distribution)}"


# ---------------------------------------------------------------- PyAV


class _PyAVVideo(Video):
    """Continues after damaged packets and counts lost frames; can skip frames."""

    decoder = "pyav"

    def __init__(self, data: bytes, container: str) -> None:
        self._data, self._container = data, container
        with _open(data, container) as opened:
            self._take(_read_header(opened, container))

    def _take(self, header: "_Header") -> None:
        self.info = header.info
        self._table, self._discarded = header.times, header.discarded
        self.count = len(self._table) or (self.info.frames_claimed or 0)

    def read(self, indices: Sequence[int], mode: SamplingMode = "exact") -> Iterator[list[Frame]]:
        """See :meth:`Video.read`."""
        return _in_batches(self._frames(indices, mode))

    def _frames(self, indices: Sequence[int], mode: SamplingMode) -> Iterator[Frame]:
        damaged: set[int] = set()
        seen: set[int] = set()
        self.frames_missed = 0
        if not self._table:
            mode = "exact"  # without time stamps, only counting gives a frame's index
        with _open(self._data, self._container) as container:
            stream = _video_stream(container)
            decoding = _Decoding(_packets(container, stream), stream, mode)
            for frame, wanted in _wanted(self._numbered(decoding, seen, damaged), indices, mode):
                if wanted and frame.intact:
                    yield self._frame(frame)
                self.frames_missed += wanted and not frame.intact
        if mode == "keyframes" and not decoding.packets:
            raise VideoError("decode_error", "no packet is marked as a key frame")
        self.frames_decoded = len(seen)
        self.frames_damaged = len(damaged)
        if mode == "exact":
            self.frames_missed = len(set(indices) - seen)
            claimed = max((self.info.frames_claimed or 0) - self._discarded, len(self._table))
            self.frames_lost = max(0, claimed - len(seen), len(damaged))
        else:
            self.frames_lost = min(self.count, len(damaged) + decoding.errors)
            if not seen and not damaged:
                self.frames_missed = len(set(indices))

    def _numbered(
        self, decoding: "_Decoding", seen: set[int], damaged: set[int]
    ) -> Iterator["_Delivered"]:
        """Yield decoded frames with their index, each once."""
        for order, (frame, intact) in enumerate(decoding):
            index = self._table.get(frame.pts, order if decoding.mode == "exact" else None)
            if index is not None and index not in seen and index not in damaged:
                (seen if intact else damaged).add(index)
                yield _Delivered(index, intact, frame)

    def _frame(self, delivered: "_Delivered") -> Frame:
        index, frame = delivered.index, delivered.frame
        rgb = np.ascontiguousarray(np.rot90(_rgb(frame), -(self.info.rotation // 90)))
        fallback = index / (self.info.fps or 25.0)
        time = float(frame.time) if frame.time is not None else fallback
        return Frame(index, time, bool(frame.key_frame), rgb)


class _SparseVideo(_PyAVVideo):
    """Decodes as few frames as possible, from clips without damage.

    The packets of a file of up to ``_KEPT_BYTES`` stay in memory between the two passes.
    """

    def __init__(self, data: bytes, container: str) -> None:
        self._data, self._container = data, container
        opened = _open(data, container)
        header = _read_header(opened, container, keep=len(data) <= _KEPT_BYTES)
        self._take(header)
        self._packets, self._described = header.packets, header.described
        self._opened = opened if self._packets else None
        if not self._table:
            raise DecoderError("packets without time stamps")
        if self._discarded:
            raise DecoderError(f"an edit list hides {self._discarded} frames")
        if self.info.frames_claimed not in (None, self.count):
            raise DecoderError(
                f"{self.count} frames to be shown, but the container counts {self.info.frames_claimed}"
            )

    def _frames(self, indices: Sequence[int], mode: SamplingMode) -> Iterator[Frame]:
        if mode == "nearest" and any(packet.reference for packet in self._described):
            indices = self._references_nearest(indices)
        elif mode != "exact":
            raise DecoderError(f"the codec does not mark what {mode} may skip")
        waiting = set(indices)
        keep = frozenset(pts for pts, index in self._table.items() if index in waiting)
        decoded = 0
        with self._opened or _open(self._data, self._container) as opened:
            stream = _video_stream(opened)
            packets = self._packets or _packets(opened, stream)
            if self._described:
                needed = h264.needed(self._described, keep)
                packets = (p for p in packets if not p.size or p.pts in needed)
            for frame, intact in _Decoding(packets, stream, "exact", keep, strict=True):
                if not intact:
                    raise DecoderError("a damaged frame")
                decoded += 1
                index = self._table.get(frame.pts, -1)
                if index in waiting:
                    waiting.remove(index)
                    yield self._frame(_Delivered(index, intact, frame))
                if not waiting:
                    break
        if waiting:
            raise DecoderError(f"{len(waiting)} frame(s) were not delivered")
        self.frames_decoded = self.count if mode == "exact" else decoded

    def _references_nearest(self, indices: Sequence[int]) -> list[int]:
        """The nearest reference frame to each index (the earlier of two), each once."""
        there = sorted(self._table[packet.pts] for packet in self._described if packet.reference)
        found = set()
        for index in indices:
            place = bisect.bisect_left(there, index)
            found.add(min(there[max(0, place - 1) : place + 1], key=lambda i: abs(i - index)))
        return sorted(found)


def _in_batches(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Batches of frames of one size, of at most :data:`BATCH_BYTES`."""
    batch: list[Frame] = []
    for frame in frames:
        full = (len(batch) + 1) * frame.rgb.nbytes > BATCH_BYTES
        if batch and (full or frame.rgb.shape != batch[0].rgb.shape):
            yield batch
            batch = []
        batch.append(frame)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class _Delivered:
    """A decoded frame, its index, and whether its pixels are intact."""

    index: int
    intact: bool
    frame: Any


def _wanted(
    frames: Iterator[_Delivered], indices: Sequence[int], mode: SamplingMode
) -> Iterator[tuple[_Delivered, bool]]:
    """Yield every decoded frame, and whether it is wanted.

    Wanted are those at ``indices`` or, if frames were skipped, the nearest to each index (the
    earlier of two), each once. Frames come in presentation order, so one pass suffices.
    """
    if mode == "exact":
        exact = set(indices)
        yield from ((frame, frame.index in exact) for frame in frames)
        return
    waiting = deque(sorted(set(indices)))
    before, taken = None, False
    for frame in frames:
        chosen = False
        while waiting and waiting[0] <= frame.index:
            index = waiting.popleft()
            if before is not None and index - before.index <= frame.index - index:
                taken = True
            else:
                chosen = True
        if before is not None:
            yield before, taken
        before, taken = frame, chosen
        if not waiting:
            break
    if before is not None:
        yield before, taken or bool(waiting)


@dataclass(frozen=True, slots=True)
class _Header:
    """A container's metadata, read by decoding only the first frame.

    ``times``: time stamp → index in presentation order, {} where packets have none;
    ``discarded``: number of packets that an edit list removes from the presentation; ``time_base``
    in seconds; ``packets`` in decoding order, None if not kept; ``described``: their headers, ()
    for codecs other than H.264.
    """

    info: StreamInfo
    times: Mapping[int, int]
    discarded: int
    time_base: float
    packets: Sequence[Any] | None
    described: Sequence[h264.Packet]


def _read_header(opened: Any, container: str, *, keep: bool = False) -> _Header:
    """One pass over the packets; the first frame is decoded for its display matrix.

    :raises VideoError: ``decode_error`` (unreadable), ``not_video`` (no picture stream) or
        ``unsupported`` (a codec that is not built in).
    """
    stamps: list[int] = []
    packets: list[Any] = []
    described: list[h264.Packet] = []
    discarded, rotation, timed = 0, None, True
    stream = _video_stream(opened)
    info = _stream_info(opened, stream, container)
    extradata = stream.codec_context.extradata
    for packet in _packets(opened, stream):
        if keep:
            packets.append(packet)
        if rotation is None:
            rotation = _rotation(stream, packet, first=not stamps)
        if packet.size == 0 or not timed:
            continue
        if packet.pts is None:
            timed = False
        elif _is_hidden(info.codec, memoryview(packet)):
            continue
        elif packet.is_discard:
            discarded += 1
        else:
            stamps.append(packet.pts)
            if info.codec == "h264":
                described.append(h264.describe(packet.pts, memoryview(packet), extradata))
        if not timed and rotation is not None:
            break
    base = float(stream.time_base or 0)
    stream.codec_context.flush_buffers()
    if rotation:
        info = replace(info, rotation=rotation)
        if rotation % 180:
            info = replace(info, width=info.height, height=info.width)
    times = {pts: i for i, pts in enumerate(sorted(set(stamps)))} if timed else {}
    return _Header(
        info, times, discarded if timed else 0, base, packets if keep else None, described
    )


def _rotation(stream: Any, packet: Any, first: bool) -> int | None:
    """The rotation (0, 90, 180 or 270 degrees clockwise) in the first frame's display matrix.

    None until a frame is delivered. The decoder is flushed after the first packet, because it would
    otherwise hold the frame back until it knows that no other precedes it.
    """
    context = stream.codec_context
    with contextlib.suppress(av.error.FFmpegError):
        frames = packet.decode()
        if not frames and first and packet.size:
            frames = context.decode(None)
            context.flush_buffers()
        if frames:
            return int(round(-frames[0].rotation / 90) * 90 % 360)
    return None


def _stream_info(opened: Any, stream: Any, container: str) -> StreamInfo:
    """The container's description, before rotation."""
    context = stream.codec_context
    if context.width <= 0 or context.height <= 0:
        raise VideoError("decode_error", "the container gives no picture size")
    duration = None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif opened.duration is not None:
        duration = opened.duration / av.time_base
    return StreamInfo(
        container=container,
        codec=context.name,
        bit_depth=context.format.components[0].bits if context.format else 8,
        width=context.width,
        height=context.height,
        rotation=0,
        fps=float(stream.average_rate) if stream.average_rate else None,
        duration_s=duration,
        frames_claimed=stream.frames or None,
    )


def _is_hidden(codec: str, packet: memoryview) -> bool:
    """Whether a packet holds only a reference frame that is never shown.

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
    if not stream.codec_context.is_open:
        stream.thread_count = 1
    return stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.error.FFmpegError):
            return  # the container is truncated: keep what came before


class _Decoding:
    """Iterates over (frame, whether its pixels are intact) in the decoder's order.

    From damage up to the next intact key frame, no frame is intact, because all are predicted from
    it. ``packets`` counts those given to the decoder, ``errors`` those that it refused. In mode
    ``nearest`` the decoder skips non-reference frames if the codec is one of :data:`_TELLING`; in
    mode ``keyframes`` it gets key frames only.

    :param keep: time stamps of frames that must be decoded; the decoder skips others as in
        ``nearest``.
    :param strict: a refused packet raises :class:`DecoderError`.
    """

    def __init__(
        self,
        packets: Iterable[Any],
        stream: Any,
        mode: SamplingMode,
        keep: frozenset[int] | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self._packets, self._stream, self.mode = packets, stream, mode
        context = stream.codec_context
        telling = context.name in _TELLING
        self._keep, self._strict = keep if telling else None, strict
        self.packets = self.errors = 0
        if mode == "nearest" and telling:
            context.skip_frame = "NONREF"

    def __iter__(self) -> Iterator[tuple[Any, bool]]:
        intact = True
        waiting: list[tuple[Any, bool]] = []
        for packet in self._packets:
            if self.mode == "keyframes" and packet.size and not packet.is_keyframe:
                continue
            if self._keep is not None:
                kept = packet.pts in self._keep
                self._stream.codec_context.skip_frame = "DEFAULT" if kept else "NONREF"
            self.packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if self._strict:
                    raise DecoderError(f"a damaged packet: {_text(error)}") from None
                intact = False  # its frame is missing
                self.errors += 1
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
    """decord with one thread and exact frames, checked for its known errors."""

    decoder = "decord"

    def __init__(self, data: bytes, container: str) -> None:
        decord = _decord()
        with _open(data, container) as opened:
            header = _read_header(opened, container)
        self.info = header.info
        if self.info.bit_depth > 8:
            raise DecoderError(f"decord gives different pixels at {self.info.bit_depth} bits")
        try:
            self._reader = decord.VideoReader(io.BytesIO(data), num_threads=1, fault_tol=1e-9)
            self.count = len(self._reader)
            times = self._reader.get_frame_timestamp(range(self.count))[:, 0]
            self._keys = frozenset(self._reader.get_key_indices())
        except (decord.DECORDError, AssertionError, IndexError, RuntimeError) as error:
            raise DecoderError(f"decord cannot open it: {_text(error)}") from None
        if self.info.frames_claimed not in (None, self.count):
            raise DecoderError(
                f"decord counts {self.count} frames, the container {self.info.frames_claimed}"
            )
        if not np.all(np.diff(times) > 0):
            raise DecoderError("decord gives time stamps that repeat or decrease")
        if len(header.times) != self.count or header.discarded:
            raise DecoderError(
                f"decord counts {self.count} frames, {len(header.times)} are to be shown"
            )
        self._times = np.array(sorted(header.times)) * header.time_base

    def read(self, indices: Sequence[int], mode: SamplingMode = "exact") -> Iterator[list[Frame]]:
        """See :meth:`Video.read`."""
        if mode != "exact":
            raise DecoderError(f"decord decodes every frame, which {mode} must avoid")
        decord = _decord()
        step = max(1, BATCH_BYTES // (self.info.width * self.info.height * 3))
        for start in range(0, len(indices), step):
            chunk = list(indices[start : start + step])
            with _complaints() as complaints:
                try:  # one by one: batches need fresh memory, 10 % slower
                    batch = [self._reader[i].asnumpy() for i in chunk]
                except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError) as error:
                    raise DecoderError(f"decord stopped: {_text(error)}") from None
            if complaints:
                raise DecoderError(f"decord hides damage: {complaints[0]}")
            shapes = {rgb.shape for rgb in batch}
            if shapes != {(self.info.height, self.info.width, 3)}:
                raise DecoderError(f"decord gives frames of shape {shapes}")
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
            "pip uninstall -y decord decord2 && pip install decord2",
            code="install.incomplete",
        )
    import decord

    decord.logging.set_level(decord.logging.ERROR)  # its messages are read by _complaints
    return decord


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect FFmpeg's lines on stderr; the list is filled when the block ends. decord delivers
    frames with concealed errors, and stderr is the only sign of them.
    """
    lines: list[str] = []
    sys.stderr.flush()
    real = os.dup(2)
    said, saying = os.pipe()
    os.set_blocking(said, False)
    os.set_blocking(saying, False)  # what does not fit is lost, but the first line is enough
    os.dup2(saying, 2)
    os.close(saying)
    try:
        yield lines
    finally:
        os.dup2(real, 2)
        os.close(real)
        with contextlib.suppress(BlockingIOError), os.fdopen(said, "rb", buffering=0) as there:
            text = (there.read(1 << 16) or b"").decode(errors="replace")
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
    "sparse": _SparseVideo,
    "decord": _DecordVideo,
    "pyav": _PyAVVideo,
}

ORDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "auto": ("sparse", "pyav"),
    "decord": ("decord", "pyav"),
    "pyav": ("pyav",),
}
"""The decoders a user may choose, each with the order in which decoders are tried."""

READS: Final[Mapping[SamplingMode, frozenset[str]]] = {
    "exact": frozenset(DECODERS),
    "nearest": frozenset(("sparse", "pyav")),
    "keyframes": frozenset(("pyav",)),
}
"""Sampling mode → the decoders that support it."""
