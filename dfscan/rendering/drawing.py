"""Draw verdicts into a scored picture or video.

Every frame is decoded, so this runs in a sandboxed process
(:mod:`dfscan.pipeline.sandbox.transcoding`).
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ConfigDict

from dfscan.errors import DfscanError, VideoError
from dfscan.faces.crops import Box, crop_for_network
from dfscan.rendering.interpolation import Path, Placed, in_shots
from dfscan.rendering.overlay import Artist, Mark, results
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import NetworkInput
from dfscan.scoring.aggregation import sigmoid
from dfscan.storage import Opened
from dfscan.video import Frame, Video, open_video
from dfscan.video.pictures import open_picture
from dfscan.video.reading import in_order
from dfscan.video.writing import VideoWriter

_WAITING: Final = 4
"""Largest number of frames waiting for the encoder."""

Watch = Callable[[int, int], None]
"""Called with the number of frames done (0 before the first) and the expected total."""


class Face(Strict):
    """A face at one moment: ``box`` in pixels of the frame, and its score, a logit.

    ``image`` is the stored crop of a picture's face, the region ``crop_box``.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    pts_s: float
    box: Box
    score_raw: float
    image: bytes = b""
    crop_box: Box = (0.0, 0.0, 0.0, 0.0)


class Person(Strict):
    """One person and their label; ``threshold`` is on the scale of :meth:`Drawing.now`."""

    number: int
    verdict: str
    label: str
    threshold: float | None
    drawn: bool
    faces: tuple[Face, ...]


class Drawing(Strict):
    """The annotations of one file.

    ``heading`` is the file's verdict in words. A sample's logit times ``scale`` plus ``offset`` is
    the logit of its displayed probability. Samples of a video are ``every_s`` seconds apart;
    ``seen_by`` names the model whose inputs, cropped by ``input``, are shown for a picture. Drawing
    stops after ``deadline_s`` seconds.
    """

    heading: str
    people: tuple[Person, ...]
    scale: float
    offset: float
    every_s: float
    input: NetworkInput
    seen_by: str
    deadline_s: float

    def now(self, score_raw: float) -> float:
        """The displayed probability of a single sample of a person."""
        return sigmoid(self.scale * score_raw + self.offset)

    def mark(self, person: Person, at: Placed) -> Mark:
        """The mark for a person at a position."""
        return Mark(
            number=person.number,
            box=at.box,
            verdict=person.verdict,
            label=person.label,
            now=self.now(at.score_raw),
            threshold=person.threshold,
        )


class Drawn(Strict):
    """The result: number of frames, duration in seconds, and warnings for the viewer."""

    frames: int
    seconds: float | None
    notes: tuple[str, ...]


def draw_picture(data: bytes, drawing: Drawing, out: FilePath | Opened) -> Drawn:
    """Write a PNG: the original beside the annotated picture, and the network's inputs.

    :raises VideoError: it cannot be decoded.
    """
    (batch,) = open_picture(data).read([0])
    marks, inputs = [], []
    for person in drawing.people:
        for face in person.faces:
            marks.append(drawing.mark(person, Placed(face.box, face.score_raw)))
            inputs.append(crop_for_network(face.image, face.crop_box, face.box, drawing.input))
    sheet = results(batch[0].rgb, marks, inputs, drawing.heading, drawing.seen_by)
    if isinstance(out, Opened):
        sheet.save(out.begin(), "PNG")
        out.flush()
    else:
        sheet.save(out, "PNG")
    return Drawn(frames=1, seconds=None, notes=())


def draw_video(data: bytes, drawing: Drawing, out: FilePath | Opened, watch: Watch) -> Drawn:
    """Decode every frame, draw, and encode: H.264 in MP4, with the sound of the original.

    One pass over the frames; the encoder runs in its own thread.

    :raises VideoError: it cannot be decoded, or not in time.
    :raises DfscanError: the file cannot be written.
    """
    video = open_video(data, "pyav")
    watch(0, video.count)
    paths = [(p, _path_of(p, drawing.every_s)) for p in drawing.people if p.drawn]
    first: Frame | None = None
    last_s = 0.0
    count = 0
    with _Encoding(out) as encoding:
        for shown in in_shots(_in_time(video, drawing.deadline_s), drawing.every_s):
            frame = shown.frame
            if first is None:
                first = frame
                encoding.begin(video, frame, data)
                artist = Artist(frame.rgb.shape[1], frame.rgb.shape[0])
            if not drawing.people:
                artist.caption(frame.rgb, drawing.heading)
            elif frame.rgb.shape == first.rgb.shape:
                places = (
                    (person, own.at(frame.pts_s, shown.begins_s, shown.ends_s))
                    for person, own in paths
                )
                artist.draw(frame.rgb, [drawing.mark(p, at) for p, at in places if at])
            encoding.put(frame)
            last_s = max(last_s, frame.pts_s)
            count += 1
            watch(count, video.count)
    if first is None:
        raise DfscanError("no frame could be decoded without damage, so nothing can be drawn")
    notes = [encoding.sound_note] if encoding.sound_note else []
    if video.frames_lost:
        notes.append(f"{video.frames_lost} frame(s) are damaged or missing and were left out")
    seconds = last_s - first.pts_s + 1 / (video.info.fps or 25.0)
    return Drawn(frames=count, seconds=seconds, notes=tuple(notes))


def _path_of(person: Person, every_s: float) -> Path:
    faces = sorted(person.faces, key=lambda face: face.pts_s)
    return Path(
        [f.pts_s for f in faces],
        [f.box for f in faces],
        [f.score_raw for f in faces],
        every_s,
    )


def _in_time(video: Video, deadline_s: float) -> Iterator[Frame]:
    """Yield every frame in order.

    :raises VideoError: the time limit is exceeded.
    """
    until = time.monotonic() + deadline_s
    for frame in in_order(video):
        if time.monotonic() > until:
            raise too_late(deadline_s)
        yield frame


def too_late(deadline_s: float) -> VideoError:
    """The error for an exceeded time limit."""
    return VideoError("timeout", f"not drawn after {deadline_s:.0f} s")


class _Encoding:
    """A video writer in its own thread, so that drawing and encoding overlap."""

    def __init__(self, out: FilePath | Opened) -> None:
        self._out = out
        self._writer: VideoWriter | None = None
        self._queue: queue.Queue[Frame | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._error: BaseException | None = None

    @property
    def sound_note(self) -> str | None:
        """The error of the sound, if any."""
        return None if self._writer is None else self._writer.sound_note

    def begin(self, video: Video, first: Frame, data: bytes) -> None:
        """Open the file, with the size and time of the first frame."""
        height, width = first.rgb.shape[:2]
        self._writer = VideoWriter(
            self._out, width, height, video.info.fps, sound=data, start_s=first.pts_s
        )
        self._shape = first.rgb.shape
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Queue a frame; the caller must not change it afterwards."""
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def __enter__(self) -> "_Encoding":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is None:
            self._writer.close()
            return
        self._writer.__exit__(RuntimeError, None, None)
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        assert self._writer is not None
        while (frame := self._queue.get()) is not None:
            if self._error is None:
                try:
                    self._writer.write(self._fitted(frame.rgb), frame.pts_s)
                except BaseException as error:  # noqa: BLE001  (raised again by the driver)
                    self._error = error

    def _fitted(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize a frame to the file's size, since a stream may change its size."""
        if rgb.shape == self._shape:
            return rgb
        height, width = self._shape[:2]
        return np.asarray(Image.fromarray(rgb).resize((width, height)))
