"""The faces that a report shows: cut out of stored ones, or of the videos once more.

A verdict file holds no pictures. Its videos are opened again in the isolated child, each for the few
frames that are shown, and only the recorded boxes are cut out: no detector runs. A file that is
gone or has another content by now gives the reason instead of a picture.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

from dfscan import storage
from dfscan.config.base import DecodingConfig
from dfscan.config.extract import ExtractConfig
from dfscan.config.loading import build
from dfscan.config.report import ReportConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import SourceError, StoreError
from dfscan.faces.crops import Box, PictureError, crop_for_network
from dfscan.pipeline.extraction.extractor import (
    ExtractionResult,
    FaceExtractor,
    InProcessExtractor,
    ReferenceFaces,
)
from dfscan.pipeline.inputs import make_extractor
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.resources import worker_count
from dfscan.pipeline.sandbox.process import SandboxedExtractor
from dfscan.schemas.recipe import Crop, Detector, FaceRecipe, NetworkInput, Sampling, Stride
from dfscan.schemas.records import FaceRow, VideoRef
from dfscan.schemas.status import SUCCEEDED

SIDE: Final = 112
"""Pixels of a thumbnail's side."""

QUALITY: Final = 70
MARGIN: Final = 0.25

_VIEW: Final = NetworkInput(size=SIDE, margin=MARGIN, square="pad", interpolation="bicubic")
_STORED: Final = Crop(context=0.6, max_size=320, quality=90)
_ONE: Final = 1 << 30
"""A stride that no video is as long as: the frame at the phase and no other."""

_COLUMNS: Final = ("video_id", "frame_index", "track_id", "box", "crop_box", "image")

FaceKey = tuple[str, int, int | None]
"""``video_id``, ``frame_index``, ``track_id`` of a stored face."""


@dataclass(frozen=True)
class Spot:
    """A face of a video: in which frame, when (seconds), where (pixels of the displayed frame).

    ``p_fake`` is the face's own.
    """

    frame_index: int
    pts_s: float
    track_id: int | None
    box: Box
    p_fake: float | None = None


@dataclass(frozen=True)
class Wanted:
    """Faces to be cut out of one video of ``width`` × ``height`` pixels."""

    ref: VideoRef
    content_sha256: str | None
    width: int
    height: int
    spots: tuple[Spot, ...]


@dataclass(frozen=True)
class Picture:
    """A thumbnail, or why there is none."""

    jpeg: bytes | None
    missing: str = ""


def thumbnail(image: bytes, crop_box: Box, box: Box) -> Picture:
    """A stored face as a small square JPEG, the box a little from its borders.

    :param crop_box: what ``image`` shows, and ``box`` the face, in pixels of the frame.
    """
    try:
        pixels = crop_for_network(image, crop_box, _square(box), _VIEW)
    except PictureError:
        return Picture(None, "the stored picture does not decode")
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=QUALITY, optimize=True)
    return Picture(sink.getvalue())


def _square(box: Box) -> Box:
    """The box with its shorter side made as long as the other."""
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half, y - half, x + half, y + half


# ---------------------------------------------------------------- out of videos


def from_videos(
    wanted: Sequence[Wanted], config: ReportConfig, progress: Progress
) -> list[list[Picture]]:
    """A picture of every spot of every video, in their order.

    :raises DfscanError: the decoding process does not start.
    """
    if not wanted:
        return []
    extractor = make_extractor(_opening(config), _recipe(0), progress)
    found = []
    progress.start("faces", len(wanted), "videos")
    try:
        with ThreadPoolExecutor(worker_count(config) if config.isolate else 1) as threads:
            try:
                for pictures in threads.map(lambda one: _of_video(one, extractor), wanted):
                    found.append(pictures)
                    progress.advance(1)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                extractor.abandon()
    finally:
        progress.stop()
        storage.forget()
    return found


def _opening(config: ReportConfig) -> ExtractConfig:
    """How videos are opened: as this verb is told to, on the CPU, since no network runs."""
    shared = {name: getattr(config, name) for name in DecodingConfig.model_fields}
    return build(ExtractConfig, {**shared, "gpus": 0, "decoders": 0})


def _recipe(frame_index: int) -> FaceRecipe:
    sampling = Sampling(stride=Stride(real=_ONE, fake=_ONE), phase=frame_index)
    return FaceRecipe(sampling=sampling, detector=Detector(name="none"), crop=_STORED)


def _of_video(wanted: Wanted, extractor: FaceExtractor) -> list[Picture]:
    frames = sorted({spot.frame_index for spot in wanted.spots})
    own = _with_recipe(extractor, _recipe(frames[0]))
    faces = tuple(_known(wanted.ref, number, spot) for number, spot in enumerate(wanted.spots))
    times = {spot.frame_index: spot.pts_s for spot in wanted.spots}
    seen = own.extract(
        wanted.ref, frames[1:], ReferenceFaces(wanted.width, wanted.height, times, faces)
    )
    return [_picture(number, spot, seen, wanted) for number, spot in enumerate(wanted.spots)]


def _with_recipe(extractor: FaceExtractor, recipe: FaceRecipe) -> FaceExtractor:
    if isinstance(extractor, SandboxedExtractor):
        inner = InProcessExtractor(
            recipe, extractor.device, extractor.extractor.max_bytes, extractor.extractor.decoders
        )
        return SandboxedExtractor(inner, extractor.limits, extractor.decoders)
    assert isinstance(extractor, InProcessExtractor)
    return InProcessExtractor(recipe, extractor.device, extractor.max_bytes, extractor.decoders)


def _known(ref: VideoRef, number: int, spot: Spot) -> FaceRow:
    """A spot as a face that was found before; ``face_index`` is its number."""
    return FaceRow(
        video_id=ref.video_id, uri=ref.uri, part="", label=None, original=None, group="",
        attributes={}, frame_index=spot.frame_index, pts_s=spot.pts_s, key_frame=False,
        face_index=number, box=spot.box, landmarks=None, detector_score=1.0, box_from="original",
        crop_box=spot.box, image=b"", track_id=spot.track_id,
    )  # fmt: skip


def _picture(number: int, spot: Spot, seen: ExtractionResult, wanted: Wanted) -> Picture:
    row = seen.row
    if row.status not in SUCCEEDED:
        gone = row.status == "missing"
        return Picture(None, "the file is gone" if gone else f"{row.status}: {row.reason}")
    if wanted.content_sha256 is not None and row.content_sha256 != wanted.content_sha256:
        return Picture(None, "the file has changed since")
    for face in seen.faces:
        if face.box_from == "original" and face.face_index == number:
            return thumbnail(face.image, face.crop_box, spot.box)
    return Picture(None, "the frame could not be had again")


# ---------------------------------------------------------------- out of datasets


def from_datasets(
    roots: Iterable[storage.StoragePath], keys: Iterable[FaceKey]
) -> dict[FaceKey, Picture]:
    """The thumbnails of stored faces, as far as they are found.

    :param roots: face datasets; what is none, gone, or cannot be listed is passed over.
    """
    left, found = set(keys), dict[FaceKey, Picture]()
    for root in roots:
        with contextlib.suppress(SourceError, StoreError):
            for path in storage.parquet_files(FaceSet(root).faces) if left else ():
                ids = storage.open_parquet(path).read(list(_COLUMNS[:3]))
                places = {k: n for n, k in enumerate(_keys(ids)) if k in left}
                rows = rows_at(path, list(places.values()), _COLUMNS)
                found |= {k: _of_row(rows[place]) for k, place in places.items()}
                left -= places.keys()
    return found


def _keys(table: pa.Table) -> list[FaceKey]:
    return list(zip(*(table.column(n).to_pylist() for n in _COLUMNS[:3]), strict=True))


def rows_at(
    path: storage.StoragePath, places: Sequence[int], columns: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Some rows of a file by their place; only the row groups that hold them are read."""
    if not places:
        return {}
    file = storage.open_parquet(path)
    sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    groups: dict[int, list[int]] = defaultdict(list)
    for place in sorted(places):
        groups[int(np.searchsorted(starts, place, "right")) - 1].append(place)
    found: dict[int, dict[str, Any]] = {}
    for group, mine in groups.items():
        table = file.read_row_group(group, columns=list(columns))
        local = pa.array([place - int(starts[group]) for place in mine])
        found |= dict(zip(mine, table.take(local).to_pylist(), strict=True))
    return found


def _of_row(row: Mapping[str, Any]) -> Picture:
    return thumbnail(row["image"]["bytes"], tuple(row["crop_box"]), tuple(row["box"]))
