"""Looking at one video: bytes → frames → boxes → crops. Extracting and scoring both begin here."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dfscan import storage
from dfscan.errors import VideoError
from dfscan.faces.base import FaceDetector
from dfscan.faces.crops import store
from dfscan.faces.detectors import load_detector
from dfscan.recipe import FaceRecipe
from dfscan.records import FaceRow, VideoRef, VideoRow
from dfscan.video import DECODERS, DecoderTrouble, Frame, Video, frame_indices, open_video
from dfscan.video.reading import decoder_version


@dataclass(frozen=True)
class Look:
    """How to look at videos: the recipe, the device of the detector, and the size limit."""

    recipe: FaceRecipe
    device: str
    max_bytes: int

    def __call__(self, ref: VideoRef) -> tuple[VideoRow, list[FaceRow]]:
        """One video's row and its faces; whatever goes wrong with the file ends in the row."""
        started = time.monotonic()
        row = empty_row(ref)
        faces: list[FaceRow] = []
        try:
            if ref.bytes > self.max_bytes:
                raise VideoError("too_large", f"{ref.bytes:,} bytes, more than max_bytes")
            data = storage.read_bytes(ref.uri, self.max_bytes)
            row = replace(row, content_sha256=storage.sha256(data), bytes=len(data))
            row, faces = self._decode(ref, row, data)
        except VideoError as error:
            row = replace(row, status=error.status, reason=error.reason)
        return replace(row, elapsed_s=time.monotonic() - started), faces

    def _decode(self, ref: VideoRef, row: VideoRow, data: bytes) -> tuple[VideoRow, list[FaceRow]]:
        """Try each decoder on the whole clip; the first that delivers it faithfully counts."""
        trouble: list[str] = []
        for decoder in DECODERS:
            try:
                return self._look(ref, row, open_video(data, decoder))
            except DecoderTrouble as error:
                trouble.append(str(error))
        raise VideoError("decode_error", "; ".join(trouble))

    def _look(self, ref: VideoRef, row: VideoRow, video: Video) -> tuple[VideoRow, list[FaceRow]]:
        assert row.content_sha256 is not None
        info = video.info
        indices = frame_indices(
            self.recipe.sampling,
            frames=video.count,
            fps=info.fps,
            label=ref.label,
            content_sha256=row.content_sha256,
        )
        detector = load_detector(self.recipe.detector, self.device)
        min_face = self.recipe.detector.min_face_px(info.width, info.height)
        weight = video.count / max(1, len(indices))
        faces: list[FaceRow] = []
        sampled = 0
        for frames in video.read(indices):
            sampled += len(frames)
            faces += self._faces(ref, frames, detector, min_face, weight)
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
            frames_sampled=sampled,
            frames_lost=video.frames_lost,
            faces=len(faces),
            decoder=decoder_version(video.decoder),
        )
        return _with_status(row, len(indices)), faces

    def _faces(
        self,
        ref: VideoRef,
        frames: Sequence[Frame],
        detector: FaceDetector,
        min_face: int,
        weight: float,
    ) -> list[FaceRow]:
        rows: list[FaceRow] = []
        found = detector.detect([f.rgb for f in frames], min_face)
        for frame, faces in zip(frames, found, strict=True):
            for number in range(len(faces)):
                box = _box(faces.boxes[number])
                crop = store(frame.rgb, box, self.recipe.crop)
                if crop is None:
                    continue
                rows.append(
                    FaceRow(
                        video_id=ref.video_id,
                        uri=ref.uri,
                        part=ref.part,
                        label=ref.label,
                        original=ref.original,
                        group=ref.group,
                        attributes=ref.attributes,
                        frame_index=frame.index,
                        pts_s=frame.pts_s,
                        key_frame=frame.key_frame,
                        face_index=number,
                        box=box,
                        landmarks=tuple(float(v) for v in faces.landmarks[number].ravel()),
                        detector_score=float(faces.scores[number]),
                        box_from="detected",
                        crop_box=crop.crop_box,
                        image=crop.image,
                        weight=weight,
                    )
                )
        return rows


def empty_row(ref: VideoRef, status: str = "ok", reason: str | None = None) -> VideoRow:
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


def _with_status(row: VideoRow, wanted: int) -> VideoRow:
    """The first status that applies to a clip that could be opened."""
    if not row.frames_decoded:
        return replace(row, status="decode_error", reason="no frame could be decoded")
    missed = wanted - (row.frames_sampled or 0)
    if row.frames_lost or missed:
        reason = f"{row.frames_lost or 0} frame(s) lost, {missed} of them wanted"
        return replace(row, status="partial", reason=reason)
    if not row.faces:
        return replace(row, status="no_face", reason=f"no face in {row.frames_sampled} frame(s)")
    return replace(row, status="ok")


def _box(values: Any) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in values)
    return x0, y0, x1, y1
