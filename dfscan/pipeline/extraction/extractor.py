"""Looking at one video: bytes → frames → boxes → crops. Extracting and scoring both begin here."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dfscan import storage
from dfscan.errors import VideoError
from dfscan.faces import tracks
from dfscan.faces.base import FaceDetector
from dfscan.faces.crops import Box, crop_face
from dfscan.faces.detectors import load_detector
from dfscan.faces.similarity import face_difference
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import FaceRow, VideoRef, VideoRow
from dfscan.video import ORDERS, READS, DecoderError, Frame, Video, frame_indices, open_video
from dfscan.video.pictures import is_picture_file, open_picture
from dfscan.video.reading import decoder_version

ASPECT_TOLERANCE = 0.01
"""An original's boxes fit its fake where their aspect ratios differ by less than this share."""


@dataclass(frozen=True)
class ExtractionResult:
    """What became of one video, its faces, and when its sampled frames are shown.

    ``times``: frame index → seconds, of every frame that was looked at, with a face or without.
    ``faces_s``: seconds that decoding stood still, while faces were found, cut out and encoded.
    """

    row: VideoRow
    faces: list[FaceRow]
    times: Mapping[int, float] = field(default_factory=dict)
    faces_s: float = 0.0


@dataclass(frozen=True)
class Content:
    """The bytes of a file, and their hex SHA-256 as computed where they were read."""

    data: bytes
    sha256: str


@dataclass(frozen=True)
class ReferenceFaces:
    """An original, as far as its fakes need it: where its faces are, frame by frame."""

    width: int
    height: int
    times: Mapping[int, float]
    faces: tuple[FaceRow, ...]


class FaceExtractor(Protocol):
    """Looks at videos: in this process (:class:`InProcessExtractor`) or in a child that can be ended."""

    @property
    def recipe(self) -> FaceRecipe:
        """How frames are taken and faces found."""

    @property
    def device(self) -> str:
        """Where the detector runs."""

    @property
    def max_concurrent(self) -> int:
        """How many videos may be looked at at once, each in a thread of its own."""

    def abandon(self) -> None:
        """Give up what is being looked at in other threads."""

    def extract(
        self,
        ref: VideoRef,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        """One video's row and its faces; whatever goes wrong with the file ends in the row.

        :param extra_frames: indices of frames to look at besides those of the recipe.
        :param reference: take the boxes of this original instead of detecting faces.
        """

    def sample_frames(self, ref: VideoRef) -> list[int]:
        """Indices of the frames that :meth:`extract` would look at.

        :raises VideoError: the video cannot be read.
        """


@dataclass(frozen=True)
class InProcessExtractor:
    """How to look at videos: the recipe, the detector's device, the size limit, the decoders.

    ``detector`` finds the faces instead of the recipe's own, which is loaded into this process.
    """

    recipe: FaceRecipe
    device: str
    max_bytes: int
    decoders: tuple[str, ...] = ORDERS["auto"]
    detector: FaceDetector | None = None

    @property
    def max_concurrent(self) -> int:
        """See :class:`FaceExtractor`."""
        return 1

    def abandon(self) -> None:
        """See :class:`FaceExtractor`: there are no other threads."""

    def load(self) -> FaceDetector:
        """The detector, its networks loaded."""
        return self.detector or load_detector(self.recipe.detector, self.device)

    def extract(
        self,
        ref: VideoRef,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        """See :meth:`FaceExtractor.extract`."""
        started = time.monotonic()
        try:
            content = self._read(ref)
        except VideoError as error:
            row = failed_row(ref, error.status, error.reason)
            return ExtractionResult(replace(row, elapsed_s=time.monotonic() - started), [])
        return self.extract_content(ref, content, started, extra_frames, reference)

    def extract_content(
        self,
        ref: VideoRef,
        content: Content,
        started: float,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        """:meth:`extract`, of what was read elsewhere.

        :param started: when reading began, by the monotonic clock.
        """
        row = replace(failed_row(ref), content_sha256=content.sha256, bytes=len(content.data))
        try:
            result = self._decode(row, content.data, extra_frames, reference)
        except VideoError as error:
            result = ExtractionResult(replace(row, status=error.status, reason=error.reason), [])
        return replace(result, row=replace(result.row, elapsed_s=time.monotonic() - started))

    def sample_frames(self, ref: VideoRef) -> list[int]:
        """See :meth:`FaceExtractor.sample_frames`."""
        return self.sample_content(ref, self._read(ref))

    def sample_content(self, ref: VideoRef, content: Content) -> list[int]:
        """:meth:`sample_frames`, of what was read elsewhere."""
        trouble: list[str] = []
        for video in self._open(ref.uri, content.data, trouble):
            return self._indices(video, ref.label, content.sha256)
        raise VideoError("decode_error", "; ".join(trouble))

    def pieces(self, ref: VideoRef) -> Iterator[bytes]:
        """The bytes of a file, a few megabytes at a time.

        :raises VideoError: it is too large, or cannot be read.
        """
        if ref.bytes > self.max_bytes:
            raise VideoError("too_large", f"{ref.bytes:,} bytes, more than max_bytes")
        yield from storage.read_pieces(ref.uri, self.max_bytes)

    def _read(self, ref: VideoRef) -> Content:
        data = b"".join(self.pieces(ref))
        return Content(data, storage.sha256(data))

    def _decode(
        self,
        row: VideoRow,
        data: bytes,
        extra_frames: Sequence[int],
        reference: ReferenceFaces | None,
    ) -> ExtractionResult:
        """Try each decoder on the whole clip; the first that delivers it faithfully counts."""
        self.load()  # before decord: docs/architecture.md
        trouble: list[str] = []
        for video in self._open(row.uri, data, trouble):
            try:
                return self._extract(row, video, extra_frames, reference)
            except DecoderError as error:
                trouble.append(str(error))
        raise VideoError("decode_error", "; ".join(trouble))

    def _open(self, uri: str, data: bytes, trouble: list[str]) -> Iterator[Video]:
        """Every way to open a file that may deliver it; what speaks against one: ``trouble``.

        A file's name says whether it is to be a picture or a video; without a known ending its
        first bytes do.
        """
        if is_picture_file(uri, data):
            yield open_picture(data)
            return
        able = READS[self.recipe.sampling.mode]
        for decoder in [d for d in self.decoders if d in able]:
            try:
                yield open_video(data, decoder)
            except DecoderError as error:
                trouble.append(str(error))

    def _indices(self, video: Video, label: str | None, content_sha256: str) -> list[int]:
        return frame_indices(
            self.recipe.sampling,
            frames=video.count,
            fps=video.info.fps,
            label=label,
            content_sha256=content_sha256,
        )

    def _extract(
        self,
        row: VideoRow,
        video: Video,
        extra_frames: Sequence[int],
        reference: ReferenceFaces | None,
    ) -> ExtractionResult:
        assert row.content_sha256 is not None
        info = video.info
        own = self._indices(video, row.label, row.content_sha256)
        indices = sorted({*own, *(i for i in extra_frames if i < video.count)})
        finder = _Finder(self.recipe, self.load(), row, video, reference)
        times: dict[int, float] = {}
        faces: list[list[FaceRow]] = []
        faces_s = 0.0
        for frames in video.read(indices, self.recipe.sampling.mode):
            times.update((f.index, f.pts_s) for f in frames)
            began = time.monotonic()
            faces += finder.find(frames)
            faces_s += time.monotonic() - began
        weight = video.count / max(1, len(times))
        joined = _with_tracks(list(times.values()), faces, weight)
        row = replace(
            row,
            codec=info.codec,
            width=info.width,
            height=info.height,
            rotation=info.rotation,
            fps=info.fps,
            duration_s=info.duration_s,
            frames_claimed=info.frames_claimed,
            frames_decoded=video.frames_decoded,
            frames_sampled=len(times),
            frames_lost=video.frames_lost,
            faces=len(joined),
            tracks=len({f.track_id for f in joined}),
            decoder=decoder_version(video.decoder),
        )
        return ExtractionResult(_with_status(row, video), joined, times, faces_s)


@dataclass(frozen=True)
class _Finder:
    """Finds the faces of one video's frames, or takes them from its original."""

    recipe: FaceRecipe
    detector: FaceDetector
    row: VideoRow
    video: Video
    reference: ReferenceFaces | None

    def find(self, frames: Sequence[Frame]) -> list[list[FaceRow]]:
        """The faces of each frame, largest first."""
        info = self.video.info
        found: dict[int, list[FaceRow]] = {}
        fresh = []
        for frame in frames:
            known = self._known(frame)
            if known is None:
                fresh.append(frame)
            else:
                found[frame.index] = known
        if fresh:
            min_face = self.recipe.detector.min_face_px(info.width, info.height)
            detected = self.detector.detect([f.rgb for f in fresh], min_face)
            for frame, faces in zip(fresh, detected, strict=True):
                rows = (
                    self._row(frame, number, self.detector.box_from, _box(box), marks, float(score))
                    for number, (box, marks, score) in enumerate(
                        zip(faces.boxes, faces.landmarks, faces.scores, strict=True)
                    )
                )
                kept = [row for row in rows if row is not None]
                found[frame.index] = kept[: self.recipe.detector.max_faces]
        return [found[frame.index] for frame in frames]

    def _known(self, frame: Frame) -> list[FaceRow] | None:
        """The original's faces at this frame; None where it was not looked at there."""
        if self.reference is None or not self._same_frame(frame):
            return None
        scale = self.video.info.width / self.reference.width
        rows = []
        for face in self.reference.faces:
            if face.frame_index != frame.index:
                continue
            box = _scaled(face.box, scale)
            marks = None if face.landmarks is None else np.array(face.landmarks) * scale
            row = self._row(frame, face.face_index, "original", box, marks, face.detector_score)
            if row is not None:
                there = _scaled(face.crop_box, scale)
                difference = face_difference(row.image, row.crop_box, face.image, there, box)
                rows.append(replace(row, track_id=face.track_id, face_diff=difference))
        return rows

    def _same_frame(self, frame: Frame) -> bool:
        """Whether the original has this frame, at the same time and in the same shape."""
        assert self.reference is not None
        info, other = self.video.info, self.reference
        when = other.times.get(frame.index)
        if when is None or abs(when - frame.pts_s) > 0.5 / (info.fps or 25.0):
            return False
        aspects = (info.width * other.height) / (info.height * other.width)
        return abs(aspects - 1) < ASPECT_TOLERANCE

    def _row(
        self,
        frame: Frame,
        number: int,
        box_from: str,
        box: Box,
        landmarks: npt.NDArray[np.floating[Any]] | None,
        score: float,
    ) -> FaceRow | None:
        crop = crop_face(frame.rgb, box, self.recipe.crop)
        if crop is None:
            return None
        marks = None if landmarks is None or np.isnan(landmarks).any() else landmarks.ravel()
        row = self.row
        return FaceRow(
            video_id=row.video_id,
            uri=row.uri,
            part=row.part,
            label=row.label,
            original=row.original,
            group=row.group,
            attributes=row.attributes,
            frame_index=frame.index,
            pts_s=frame.pts_s,
            key_frame=frame.key_frame,
            face_index=number,
            box=box,
            landmarks=None if marks is None else tuple(float(v) for v in marks),
            detector_score=score,
            box_from=box_from,
            crop_box=crop.crop_box,
            image=crop.image,
        )


def _with_tracks(
    times: Sequence[float], frames: Sequence[Sequence[FaceRow]], weight: float
) -> list[FaceRow]:
    """The faces of all frames in order, each with the number of its person.

    Faces with an original's boxes keep its numbers.

    :param weight: frames of the video that each sampled one stands for.
    """
    faces = [replace(face, weight=weight) for frame in frames for face in frame]
    if faces and all(face.box_from == "original" for face in faces):
        return faces
    boxes = [np.array([f.box for f in frame], np.float32).reshape(-1, 4) for frame in frames]
    numbers = [number for frame in tracks.join(times, boxes) for number in frame]
    return [replace(f, track_id=number) for f, number in zip(faces, numbers, strict=True)]


def as_reference(result: ExtractionResult, frames: Iterable[int]) -> ReferenceFaces | None:
    """What the fakes of an original need of it; None where it could not be read.

    :param frames: the fakes' frames.
    """
    row, wanted = result.row, set(frames)
    if not row.width or not row.height or not result.times:
        return None
    return ReferenceFaces(
        width=row.width,
        height=row.height,
        times={index: when for index, when in result.times.items() if index in wanted},
        faces=tuple(face for face in result.faces if face.frame_index in wanted),
    )


def failed_row(ref: VideoRef, status: str = "ok", reason: str | None = None) -> VideoRow:
    """The row of a video of which nothing is known but where it lies."""
    return VideoRow(
        video_id=ref.video_id,
        uri=ref.uri,
        part=ref.part,
        bytes=ref.bytes,
        version=ref.version,
        label=ref.label,
        original=ref.original,
        group=ref.group,
        attributes=ref.attributes,
        status=status,
        reason=reason,
    )


def _with_status(row: VideoRow, video: Video) -> VideoRow:
    """The first status that applies to a clip that could be opened."""
    damaged, missed = video.frames_damaged, video.frames_missed
    if not row.frames_decoded:
        how = f"none of {damaged} frame(s) is intact" if damaged else "no frame could be decoded"
        return replace(row, status="decode_error", reason=how)
    if row.frames_lost or missed:
        reason = (
            f"{row.frames_lost or 0} frame(s) lost ({damaged} damaged), {missed} of them wanted"
        )
        return replace(row, status="partial", reason=reason)
    if not row.faces:
        return replace(row, status="no_face", reason=f"no face in {row.frames_sampled} frame(s)")
    return replace(row, status="ok")


def _box(values: Any) -> Box:
    x0, y0, x1, y1 = (float(v) for v in values)
    return x0, y0, x1, y1


def _scaled(box: Box, scale: float) -> Box:
    return box if scale == 1 else _box(v * scale for v in box)
