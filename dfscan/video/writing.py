"""Write frames, and the sound of their source video, to a video file.

Frames keep their time stamps, so a variable frame rate is preserved. The file declares its colour
space (ITU-T H.273), so that decoding returns the original colours.
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
"""Time stamp resolution in ticks per second, MPEG's clock."""

X264: Final[Mapping[str, str]] = {"preset": "veryfast", "crf": "18"}

_HD: Final = 720
"""From this height on, colours are BT.709 (HD), below BT.601. Players that ignore the declaration
make the same assumption.
"""

_COPIED: Final = frozenset(("aac", "mp3", "ac3", "eac3", "alac", "opus"))
"""Audio codecs that players expect in MP4; others are encoded as AAC."""

_AAC_RATES: Final = frozenset((8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000))
_USUAL_FPS: Final = 25
_BEFORE_S: Final = 0.1
"""Seconds of sound kept before the first frame, which decoders need for a clean start."""

_GAP_S: Final = 0.1
"""If time stamps run ahead of the samples by more seconds, samples are missing."""

_UNTIMED: Final = frozenset(("avi",))
"""Containers whose audio packets have no time stamps."""


class EncoderError(DfscanError):
    """The installed PyAV lacks an encoder, so no video can be written with it."""


class VideoWriter:
    """A context manager that writes a video; default: H.264 in MP4. For odd widths or heights the
    last column or row is repeated, because a chroma sample covers two. Leaving the block by an
    exception leaves a truncated file.

    :param path: the output path, or an open file.
    :param width: of the frames in pixels, as ``height``.
    :param fps: average frames per second, only for the encoder's rate control; None: unknown.
    :param options: encoder options; ``threads`` defaults to 2.
    :param container: FFmpeg's format name; default: ``mp4``.
    :param sound: a video file in memory. Its first audio stream is copied if players expect its
        codec in MP4, otherwise encoded as AAC, and ends with the frames. If that fails, the video
        has no sound and ``sound_note`` says why.
    :param start_s: the source time in seconds at which the file begins.
    :raises EncoderError: this PyAV lacks the encoder.
    :raises DfscanError: the encoder refuses the frames, or the file cannot be written.
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
        # absolute, so never mistaken for a protocol URL
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
        """A one-line error of the sound; None if it is complete or absent."""
        return None if self._sound is None else self._sound.trouble

    @property
    def has_sound(self) -> bool:
        """Whether the file gets an audio stream."""
        return self._sound is not None and self._sound.found

    def write(self, rgb: npt.NDArray[np.uint8], pts_s: float) -> None:
        """Add a frame.

        :param rgb: (H, W, 3) uint8. :param pts_s: presentation time in seconds; a time not after
            the previous one becomes the next tick.
        :raises DfscanError: the encoder fails, or the file cannot be written.
        """
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"frame must be {self._shape} uint8, got {rgb.shape} {rgb.dtype}")
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
        """Finish the file; the last frame is shown as long as the one before it."""
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
        """Start the file; sound that cannot be copied is encoded, or else dropped."""
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
        """Open the container; FFmpeg must read it again to move the index to the front."""
        file = self._file
        if file is None:
            return av.open(str(self._path), "w", **how)
        return av.open(file.begin(), "w", io_open=lambda *_: file.again(), **how)

    def _abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._output.close()

    def _add_video(self, codec: str, options: Mapping[str, str], fps: float | None) -> Any:
        """Add the video stream and open its encoder.

        :raises EncoderError: there is no such encoder.
        :raises DfscanError: it refuses frames of this size or format.
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
        hd = height >= _HD and not full  # JPEG uses BT.601 at any size
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
    """Copies the first audio stream of a video file alongside the frames.

    :param way: ``copy`` copies if possible and encodes otherwise, ``encode`` always encodes,
        ``none`` drops it. ``found``: whether the file gets an audio stream; ``trouble``: why sound,
        or the rest of it, is missing.
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
            raise ValueError("its codec is not supported by the decoder or by MP4")
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
        """Write the packets that start before this time in the file, in seconds."""
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
            return  # a damaged container: time stamps must not decrease
        self._last = packet.dts
        shift = round(self._start_s / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = self._stream
        self._output.mux(packet)


def _copied(opened: Any, source: Any) -> Iterator[Any]:
    """Yield a stream's packets in MP4's form."""
    framed = None
    if source.codec_context.codec.canonical_name == "aac" and not source.codec_context.extradata:
        # the header in each packet, which MP4 stores once
        framed = av.BitStreamFilterContext("aac_adtstoasc", source)
    for packet in opened.demux(source):
        if packet.size and packet.pts is not None and packet.dts is not None:
            yield from [packet] if framed is None else framed.filter(packet)


def _encoded(opened: Any, source: Any, stream: Any) -> Iterator[Any]:
    """Yield a stream's packets, decoded and encoded again.

    Samples are contiguous except for gaps, since some containers' time stamps are unreliable.
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
    """An error's text on one line."""
    if isinstance(error, av.error.FFmpegError | OSError) and error.strerror:
        return str(error.strerror)
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
