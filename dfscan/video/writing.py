"""Frames → a video file, and the sound of the video that they came from.

Frames keep their time stamps, so a clip of a variable frame rate stays one. The file says how its
colours are to be read (ITU-T H.273), so that a frame comes back with the colours it went in with.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from dfscan.errors import DfscanError, VideoError
from dfscan.storage import Opened
from dfscan.video import containers

TICKS: Final = 90_000
"""Time stamps are kept to so many parts of a second, MPEG's own clock."""

X264: Final[Mapping[str, str]] = {"preset": "veryfast", "crf": "18"}

_HD: Final = 720
"""Frames of so many lines are taken for HD, whose colours are BT.709's; those of fewer are BT.601's.

Players that do not read what a file says guess the same.
"""

_COPIED: Final = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus"))
"""Codecs of sound that players expect in MP4; any other is encoded as AAC."""

_AAC_RATES: Final = frozenset((8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000))
_USUAL_FPS: Final = 25
_BEFORE_S: Final = 0.1
"""Sound that begins so little before the first frame is kept: decoders need it to begin cleanly."""

_GAP_S: Final = 0.1
"""A sound's time stamps that run ahead of its samples by more mean that some are missing."""

_UNTIMED: Final = frozenset(("avi",))
"""Containers whose packets of sound have no times of their own."""


class EncoderError(DfscanError):
    """This PyAV lacks an encoder; no other video could be written with it either."""


class VideoWriter:
    """Write a video, a context manager; H.264 in MP4 unless told otherwise.

    Frames of an odd width or height get their last column or row twice, since a chroma sample
    covers two. Leaving the block by an exception leaves a file that is cut off.

    :param path: where, or a file that is open already.
    :param width: of the frames, pixels; likewise ``height``.
    :param fps: on average, for the encoder's rate control alone; None: not known.
    :param options: of the encoder; ``threads`` is two where they do not say.
    :param container: FFmpeg's name of the format; None: ``mp4``.
    :param sound: a video file, held in memory. Its first audio stream is copied where players expect
        its codec in MP4, otherwise encoded as AAC, and cut where the frames end.
        Where that fails, ``sound_note`` says so and the video goes on without.
    :param start_s: the second of the frames' and the sound's clock at which the file begins.
    :raises EncoderError: this PyAV lacks the encoder.
    :raises DfscanError: it does not take the frames, or the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path | Opened,
        width: int,
        height: int,
        fps: float | None,
        *,
        codec: str = "libx264",
        options: Mapping[str, str] = X264,
        pixel_format: str = "yuv420p",
        container: str | None = None,
        sound: bytes | None = None,
        start_s: float = 0.0,
    ) -> None:
        self._start = round(start_s * TICKS)
        self._file = path if isinstance(path, Opened) else None
        # absolute, so never read as the address of a protocol
        self._path = Path(path.path if isinstance(path, Opened) else path).absolute()
        self._shape = (height, width, 3)
        self._pad = ((0, height % 2), (0, width % 2), (0, 0))
        self._format = pixel_format
        self._last: int | None = None
        self._frame_ticks = max(1, round(TICKS / (fps or _USUAL_FPS)))
        self._sound: _Sound | None = None
        self._open(container or "mp4", codec, options, fps, sound, start_s)

    @property
    def sound_note(self) -> str | None:
        """What is wrong with the sound, one line; None where nothing is, or there is none."""
        return None if self._sound is None else self._sound.trouble

    @property
    def has_sound(self) -> bool:
        """Whether the file gets an audio stream."""
        return self._sound is not None and self._sound.found

    def write(self, rgb: npt.NDArray[np.uint8], pts_s: float) -> None:
        """Add a frame.

        :param rgb: (H, W, 3) uint8. :param pts_s: when it is shown, seconds; a time not after the
            one before is taken for the next tick.
        :raises DfscanError: the encoder gives up, or the file cannot be written.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"a frame is {self._shape} uint8, got {rgb.shape} {rgb.dtype}")
        if self._pad != ((0, 0), (0, 0), (0, 0)):
            rgb = np.pad(rgb, self._pad, mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(
            format=self._format, dst_colorspace=self._matrix, dst_color_range=self._range
        )
        ticks = round(pts_s * TICKS) - self._start
        if self._last is not None:
            ticks = max(ticks, self._last + 1)
            self._frame_ticks = ticks - self._last
        frame.pts, frame.time_base, self._last = ticks, Fraction(1, TICKS), ticks
        with self._told():
            self._output.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy_until(ticks / TICKS)

    def close(self) -> None:
        """Finish the file; the last frame is shown for as long as the one before."""
        if self._last is not None:
            with self._told():
                self._output.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.copy_until((self._last + self._frame_ticks) / TICKS)
        with self._told():
            self._output.close()
            if self._file:
                self._file.flush()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        self._abandon()

    def _open(
        self,
        container: str,
        codec: str,
        options: Mapping[str, str],
        fps: float | None,
        sound: bytes | None,
        start_s: float,
    ) -> None:
        """Begin the file; sound whose copy the format refuses is encoded, else left out."""
        moov_first = {"movflags": "faststart"} if container == "mp4" else {}
        for way in ("none",) if sound is None else ("copy", "encode", "none"):
            with self._told():
                self._output = self._create(format=container, options=moov_first)
            try:
                self._stream = self._add_video(codec, options, fps)
                if sound is not None:
                    self._sound = _Sound(sound, self._output, start_s, way)
                self._output.start_encoding()
                return
            except av.error.FFmpegError as error:
                self._abandon()
                if way == "none":
                    raise DfscanError(
                        f"cannot write {self._path}: {_text(error)}", code="output.unwritable"
                    ) from None
            except BaseException:
                self._abandon()
                raise

    def _create(self, **how: Any) -> Any:
        """The container; to move its index to the front, FFmpeg reads again what it wrote."""
        file = self._file
        if file is None:
            return av.open(str(self._path), "w", **how)
        return av.open(file.begin(), "w", io_open=lambda *_: file.again(), **how)

    def _abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._output.close()

    def _add_video(self, codec: str, options: Mapping[str, str], fps: float | None) -> Any:
        """The stream of frames, its encoder open.

        :raises EncoderError: there is no such encoder.
        :raises DfscanError: it does not take such frames.
        """
        try:
            stream: Any = self._output.add_stream(
                codec, rate=Fraction(fps or _USUAL_FPS).limit_denominator(1001)
            )
        except (av.codec.codec.UnknownCodecError, ValueError) as error:
            raise EncoderError(
                f"cannot encode with {codec!r}: {error}; this PyAV ({av.__version__}) lacks it: "
                "install PyAV from PyPI (pip install --force-reinstall av)"
            ) from None
        height, width = self._shape[:2]
        (_, down), (_, right), _ = self._pad
        stream.width, stream.height, stream.pix_fmt = width + right, height + down, self._format
        stream.options = dict(options)
        if "threads" not in options:
            stream.thread_count = 2
        context = stream.codec_context
        context.time_base = stream.time_base = Fraction(1, TICKS)
        full = self._format.startswith("yuvj")
        hd = height >= _HD and not full  # JPEG's colours are BT.601's at any size
        self._range = ColorRange.JPEG if full else ColorRange.MPEG
        self._matrix = Colorspace.ITU709 if hd else Colorspace.ITU601
        context.color_range = self._range
        context.colorspace = self._matrix
        context.color_primaries = ColorPrimaries.BT709 if hd else ColorPrimaries.SMPTE170M
        context.color_trc = ColorTrc.BT709 if hd else ColorTrc.SMPTE170M
        try:
            context.open(strict=False)
        except (av.error.FFmpegError, ValueError) as error:
            raise DfscanError(
                f"{codec} does not encode {width}×{height} frames as {self._format}: "
                f"{_text(error)}; give another codec or pixel format"
            ) from None
        return stream

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise DfscanError(
                f"cannot write {self._path}: {_text(error)}", code="output.unwritable"
            ) from None


class _Sound:
    """The first audio stream of a video file, copied into another as its frames go on.

    :param way: ``copy`` encodes what may not be copied, ``encode`` all, ``none`` leaves it out.

    ``found``: the file gets a stream; ``trouble``: why sound, or what was left of it, stays out.
    """

    def __init__(self, data: bytes, output: Any, start_s: float, way: str) -> None:
        self._output, self._start_s = output, start_s
        self.found = False
        self.trouble: str | None = None
        self._waiting: Any = None
        self._last: int | None = None
        try:
            self._open(data, way)
        except (av.error.FFmpegError, VideoError, ValueError, EOFError) as error:
            self.trouble = f"the sound cannot be read: {_text(error)}"

    def _open(self, data: bytes, way: str) -> None:
        name = containers.recognise(data[: containers.HEAD])
        opened: Any = av.open(io.BytesIO(data), format=name)
        if not opened.streams.audio:
            return
        source = opened.streams.audio[0]
        context = source.codec_context
        if context is None or way == "none":
            raise ValueError("no decoder for its codec is built in, or MP4 does not take it")
        codec = context.codec.canonical_name
        sound = context.rate and context.layout.nb_channels
        if way == "copy" and codec in _COPIED and name not in _UNTIMED and sound:
            self._stream = self._output.add_stream_from_template(source)
            self._packets = _copied(opened, source)
        else:
            rate = context.rate if context.rate in _AAC_RATES else 48_000
            layout = "mono" if context.layout.nb_channels == 1 else "stereo"
            self._stream = self._output.add_stream("aac", rate=rate, layout=layout)
            self._packets = _encoded(opened, source, self._stream)
        self.found = True

    def copy_until(self, until_s: float) -> None:
        """Write the packets that begin before this second of the file."""
        if not self.found or self.trouble is not None:
            return
        try:
            while True:
                packet, self._waiting = self._waiting or next(self._packets, None), None
                if packet is None:
                    return
                begins_s = float(packet.pts * packet.time_base) - self._start_s
                if begins_s >= until_s:
                    self._waiting = packet
                    return
                if begins_s >= -_BEFORE_S:
                    self._mux(packet)
        except (av.error.FFmpegError, ValueError, EOFError) as error:
            self.trouble = f"the sound breaks off: {_text(error)}"

    def _mux(self, packet: Any) -> None:
        if self._last is not None and packet.dts <= self._last:
            return  # a damaged container: no file may have its packets run backwards
        self._last = packet.dts
        shift = round(self._start_s / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = self._stream
        self._output.mux(packet)


def _copied(opened: Any, source: Any) -> Iterator[Any]:
    """The packets of a stream, as MP4 has them."""
    framed = None
    if source.codec_context.codec.canonical_name == "aac" and not source.codec_context.extradata:
        # each packet says itself what MP4 says once
        framed = av.BitStreamFilterContext("aac_adtstoasc", source)
    for packet in opened.demux(source):
        if packet.size and packet.pts is not None and packet.dts is not None:
            yield from [packet] if framed is None else framed.filter(packet)


def _encoded(opened: Any, source: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream, decoded and encoded.

    Samples follow each other, since some containers give no times to trust, but for gaps.
    """
    encoded_s: float | None = None
    for packet in opened.demux(source):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue  # leaves a gap
        for frame in frames:
            if encoded_s is None or (frame.time or 0.0) > encoded_s + _GAP_S:
                encoded_s = float(frame.time or 0.0)
            frame.time_base = Fraction(1, frame.sample_rate)
            frame.pts = round(encoded_s * frame.sample_rate)
            encoded_s += frame.samples / frame.sample_rate
            yield from stream.encode(frame)
    if encoded_s is not None:
        yield from stream.encode(None)


def _text(error: BaseException) -> str:
    """One line of an error."""
    if isinstance(error, av.error.FFmpegError | OSError) and error.strerror:
        return str(error.strerror)
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
