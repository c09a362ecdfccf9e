"""Verdicts drawn where the faces are: a judged file's bytes and its verdicts → the file that shows them.

Every frame is decoded, so this belongs into a process of its own (:mod:`dfscan.pipeline.sandbox.transcoding`).
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
"""Frames that may wait for the encoder."""

Watch = Callable[[int, int], None]
"""Is told how many frames are done, and how many there may be; 0 before the first."""


class Face(Strict):
    """A face at one moment: ``box`` in pixels of the frame, and its score, a logit.

    ``image`` is the stored crop of a picture's face, which shows ``crop_box``.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    pts_s: float
    box: Box
    score_raw: float
    image: bytes = b""
    crop_box: Box = (0.0, 0.0, 0.0, 0.0)


class Person(Strict):
    """One person, and how they are drawn; ``threshold`` is on the scale of :meth:`Drawing.now`."""

    number: int
    verdict: str
    label: str
    threshold: float | None
    drawn: bool
    faces: tuple[Face, ...]


class Drawing(Strict):
    """What is drawn into one file.

    ``heading`` is its own verdict in words. A moment's logit, times ``scale`` plus ``offset``, is that
    of how fake it looks. Looks at a video are ``every_s`` seconds apart; ``seen_by`` says whose view
    of a picture's faces, cut out as ``input`` says, is shown. Drawing ends after ``deadline_s`` seconds.
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
        """How fake a single moment of a person looks."""
        return sigmoid(self.scale * score_raw + self.offset)

    def mark(self, person: Person, at: Placed) -> Mark:
        """How a person is drawn there."""
        return Mark(
            number=person.number,
            box=at.box,
            verdict=person.verdict,
            label=person.label,
            now=self.now(at.score_raw),
            threshold=person.threshold,
        )


class Drawn(Strict):
    """What was written: frames, the seconds that a video's take, and what its viewer must know."""

    frames: int
    seconds: float | None
    notes: tuple[str, ...]


def draw_picture(data: bytes, drawing: Drawing, out: FilePath | Opened) -> Drawn:
    """Write the original beside the judged picture, and what the network saw: a PNG.

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

    One pass over the frames; the encoder has a thread of its own.

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
        raise DfscanError("no frame could be decoded whole, so there is nothing to draw on")
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
    """Every frame, in order.

    :raises VideoError: drawing takes too long.
    """
    until = time.monotonic() + deadline_s
    for frame in in_order(video):
        if time.monotonic() > until:
            raise too_late(deadline_s)
        yield frame


def too_late(deadline_s: float) -> VideoError:
    """Drawing takes longer than that."""
    return VideoError("timeout", f"not drawn after {deadline_s:.0f} s")


class _Encoding:
    """A writer in a thread of its own: drawing goes on while a frame is encoded."""

    def __init__(self, out: FilePath | Opened) -> None:
        self._out = out
        self._writer: VideoWriter | None = None
        self._queue: queue.Queue[Frame | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._error: BaseException | None = None

    @property
    def sound_note(self) -> str | None:
        """What is wrong with the sound."""
        return None if self._writer is None else self._writer.sound_note

    def begin(self, video: Video, first: Frame, data: bytes) -> None:
        """Open the file: as large as the first frame, beginning with it."""
        height, width = first.rgb.shape[:2]
        self._writer = VideoWriter(
            self._out, width, height, video.info.fps, sound=data, start_s=first.pts_s
        )
        self._shape = first.rgb.shape
        self._thread.start()

    def put(self, frame: Frame) -> None:
        """Hand a frame on; it is not touched any more."""
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
        """A stream may change its size; a file has one."""
        if rgb.shape == self._shape:
            return rgb
        height, width = self._shape[:2]
        return np.asarray(Image.fromarray(rgb).resize((width, height)))
