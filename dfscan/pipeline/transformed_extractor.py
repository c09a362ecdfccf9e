"""Looking at videos under a condition: each is re-encoded into a temporary file and seen there.

Decoding and encoding a whole clip goes on in a process of its own (:mod:`dfscan.pipeline.sandbox.transcoding`).
"""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dfscan import storage
from dfscan.errors import VideoError
from dfscan.pipeline.extraction.extractor import (
    ExtractionResult,
    FaceExtractor,
    ReferenceFaces,
    failed_row,
)
from dfscan.pipeline.sandbox.process import Limits
from dfscan.pipeline.sandbox.transcoding import (
    ENCODER_BYTES,
    SLOWER,
    TRANSFORMING,
    end_all,
    transcode,
)
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import VideoRef
from dfscan.video.containers import HEAD
from dfscan.video.pictures import is_picture_file
from dfscan.video.transforms import CONDITIONS


@dataclass(frozen=True)
class Made:
    """An altered file; the ``content_sha256`` and ``bytes`` of the original, and its lost frames."""

    path: Path
    content_sha256: str
    bytes: int
    lost: int


@dataclass(frozen=True)
class TransformedExtractor:
    """``look`` at what becomes of each video under a condition.

    Rows speak of the original file (``uri``, ``version``, ``content_sha256``, ``bytes``), but for
    width, height, rate and frames, which are those that were looked at. Which frames these are must
    not depend on the content, or conditions would be compared on different moments: the recipe's
    sampling spreads ``frames`` evenly over the clip, without an offset.

    :param condition: a key of :data:`~dfscan.video.transforms.CONDITIONS`.
    :param folder: of the run, for temporary files.
    :param decoders: ways to read a clip in the order in which they are tried.
    """

    extractor: FaceExtractor
    condition: str
    folder: Path
    limits: Limits
    max_bytes: int
    decoders: tuple[str, ...]

    @property
    def recipe(self) -> FaceRecipe:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return self.extractor.recipe

    @property
    def device(self) -> str:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return self.extractor.device

    @property
    def max_concurrent(self) -> int:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        return self.extractor.max_concurrent

    def abandon(self) -> None:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`."""
        end_all()
        self.extractor.abandon()

    def extract(
        self,
        ref: VideoRef,
        extra_frames: Sequence[int] = (),
        reference: ReferenceFaces | None = None,
    ) -> ExtractionResult:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`.

        :raises DfscanError: no child can be started, or nothing can be written.
        """
        started = time.monotonic()
        try:
            with self._altered(ref) as (made, there):
                result = _as_original(
                    ref, made, self.extractor.extract(there, extra_frames, reference)
                )
        except VideoError as failed:
            result = ExtractionResult(failed_row(ref, failed.status, failed.reason), [])
        return replace(result, row=replace(result.row, elapsed_s=time.monotonic() - started))

    def sample_frames(self, ref: VideoRef) -> list[int]:
        """See :class:`~dfscan.pipeline.extraction.extractor.FaceExtractor`; indices of the altered clip's frames."""
        with self._altered(ref) as (_, there):
            return self.extractor.sample_frames(there)

    @contextlib.contextmanager
    def _altered(self, ref: VideoRef) -> Iterator[tuple[Made, VideoRef]]:
        """The altered file, and the video as it lies there; it is gone afterwards.

        :raises VideoError: the video cannot be read or re-encoded.
        """
        stem = self.folder / uuid.uuid4().hex
        try:
            made = self._alter(ref, stem)
            size = storage.size(made.path)
            yield made, replace(ref, uri=str(made.path), bytes=size, version="")
        finally:
            for picture in (False, True):
                storage.remove(self._path(stem, picture))

    def _path(self, stem: Path, picture: bool) -> Path:
        return stem.with_suffix(CONDITIONS[self.condition].suffix(picture))

    def _alter(self, ref: VideoRef, stem: Path) -> Made:
        if ref.bytes > self.max_bytes:
            raise VideoError("too_large", f"{ref.bytes:,} bytes, more than max_bytes")
        read = _Read(ref.uri, self.max_bytes)
        lost = transcode(
            TRANSFORMING,
            {
                "uri": ref.uri,
                "paths": [str(self._path(stem, picture)) for picture in (False, True)],
                "condition": self.condition,
                "decoders": self.decoders,
                "memory": ENCODER_BYTES + self.limits.memory_limit(ref.bytes),
            },
            read.pieces,
            SLOWER * self.limits.deadline_s(ref.bytes),
            lambda said: int(said["lost"]),
        )
        path = self._path(stem, is_picture_file(ref.uri, read.head))
        return Made(path, read.digest.hexdigest(), read.bytes, lost)


class _Read:
    """A video's bytes on their way to a child, and what they were."""

    def __init__(self, uri: str, limit: int) -> None:
        self._uri, self._limit = uri, limit

    def pieces(self) -> Iterator[bytes]:
        """All of them.

        :raises VideoError: they cannot be read.
        """
        self.digest, self.bytes, self.head = hashlib.sha256(), 0, b""
        for piece in storage.read_pieces(self._uri, self._limit):
            self.digest.update(piece)
            self.bytes += len(piece)
            self.head = (self.head + piece[:HEAD])[:HEAD]
            yield piece


def _as_original(ref: VideoRef, made: Made, result: ExtractionResult) -> ExtractionResult:
    """What was seen of the altered file, as of the video that it was made of."""
    row = replace(
        result.row,
        uri=ref.uri,
        bytes=made.bytes,
        version=ref.version,
        content_sha256=made.content_sha256,
    )
    if made.lost and row.status in ("ok", "no_face"):
        row = replace(row, status="partial", reason=f"{made.lost} frame(s) lost before re-encoding")
    return replace(result, row=row, faces=[replace(face, uri=ref.uri) for face in result.faces])
