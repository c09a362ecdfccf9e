"""Videos of one unit → verdicts: extract their faces, score, decide, commit the rows."""

import contextlib
import functools
import importlib.metadata
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dfscan import __version__, storage
from dfscan.models.face_scorer import FaceScorer, FaceScores
from dfscan.pipeline.concurrency import map_concurrent
from dfscan.pipeline.extraction.extractor import ExtractionResult, FaceExtractor, failed_row
from dfscan.pipeline.work_units import Unit, UnitResult, split_per_video
from dfscan.schemas.records import Custody, Verdict, VideoRef
from dfscan.schemas.status import UNREAD
from dfscan.scoring.decision import DecisionRule, decide, face_px
from dfscan.storage import Lease
from dfscan.verdicts.parts import write_part

_LIBRARIES: Final = ("torch", "torchvision", "timm", "numpy", "pillow", "facenet-pytorch")


@dataclass(frozen=True)
class ScoringPass:
    """One way from videos to verdicts.

    :param name: as in the column ``look``: ``full``, or ``quick`` for key frames alone.
    """

    name: str
    extractor: FaceExtractor
    rule: DecisionRule


@dataclass(frozen=True)
class ScoreTask:
    """Makes the verdicts of a unit's videos and commits them to ``target``.

    :param full: the pass for every video that ``quick`` does not settle.
    :param quick: comes first where it is given; what it calls REAL is settled.
    :param fingerprint_inputs: everything that decides about a verdict; ``config_hash`` is its
        fingerprint.
    """

    full: ScoringPass
    scorer: FaceScorer
    config_hash: str
    fingerprint_inputs: Mapping[str, Any]
    target: storage.StoragePath
    lease: Lease | None = None
    quick: ScoringPass | None = None

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit."""
        if self.quick is None:
            return self._commit(unit, self._score(unit.videos, self.full))
        first = self._score(unit.videos, self.quick)
        settled = {v.video_id: v for v in first if v.verdict == "REAL" or v.status in UNREAD}
        spent = {v.video_id: v.elapsed_s or 0.0 for v in first}
        pending = [ref for ref in unit.videos if ref.video_id not in settled]
        second = [
            replace(v, elapsed_s=(v.elapsed_s or 0.0) + spent[v.video_id])
            for v in self._score(pending, self.full)
        ]
        return self._commit(unit, [*settled.values(), *second])

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a null verdict with this status for every video, without opening any."""
        failed = [ExtractionResult(failed_row(ref, status, reason), []) for ref in unit.videos]
        return self._commit(unit, list(self._decide(failed, self.scorer.score([]), self.full)))

    def split(self, unit: Unit) -> list[Unit]:
        """See :class:`~dfscan.pipeline.work_units.Task`."""
        return split_per_video(unit)

    def _score(self, videos: Sequence[VideoRef], scoring_pass: ScoringPass) -> list[Verdict]:
        """One verdict per video."""
        verdicts: list[Verdict] = []
        with contextlib.closing(self._extract(videos, scoring_pass.extractor)) as batches:
            for batch in batches:
                scores = self.scorer.score([face for video in batch for face in video.faces])
                verdicts += self._decide(batch, scores, scoring_pass)
        return verdicts

    def _extract(
        self, videos: Sequence[VideoRef], extractor: FaceExtractor
    ) -> Generator[list[ExtractionResult], None, None]:
        """The videos' faces, of so many videos together that they fill a batch of the networks."""
        batch: list[ExtractionResult] = []
        with contextlib.closing(map_concurrent(extractor, extractor.extract, videos)) as extracted:
            for video in extracted:
                batch.append(video)
                if sum(len(v.faces) for v in batch) >= self.scorer.batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _decide(
        self, batch: Sequence[ExtractionResult], scores: FaceScores, scoring_pass: ScoringPass
    ) -> Iterator[Verdict]:
        """The verdicts of videos whose faces were scored together."""
        start = 0
        for video in batch:
            end = start + len(video.faces)
            yield self._verdict(video, scores[start:end], scoring_pass)
            start = end

    def _verdict(
        self, video: ExtractionResult, scores: FaceScores, scoring_pass: ScoringPass
    ) -> Verdict:
        row, frames = video.row, scores.frames(video.faces)
        decision = decide(
            row.status,
            row.reason,
            frames,
            scoring_pass.rule,
            sampled=row.frames_sampled,
            sharpness=scores.median_sharpness,
        )
        return Verdict(
            video_id=row.video_id,
            uri=row.uri,
            label=row.label,
            content_sha256=row.content_sha256,
            bytes=row.bytes,
            version=row.version,
            status=row.status,
            verdict=decision.verdict,
            reason=decision.reason,
            score_raw=decision.score_raw,
            p_fake=decision.p_fake,
            calibrated=decision.calibrated,
            threshold=decision.threshold,
            llr=decision.llr,
            look=scoring_pass.name if row.frames_sampled else None,
            tracks=decision.tracks,
            frames=frames,
            top_frames_s=decision.top_frames_s,
            width=row.width,
            height=row.height,
            fps=row.fps,
            duration_s=row.duration_s,
            face_px=face_px(frames),
            frames_sampled=row.frames_sampled,
            median_sharpness=scores.median_sharpness,
            custody=self._custody(row.decoder, scoring_pass),
            scanned_at=time.time(),
            elapsed_s=row.elapsed_s,
        )

    def _custody(self, decoder: str | None, scoring_pass: ScoringPass) -> Custody:
        return Custody(
            dfscan=__version__,
            recipe_hash=scoring_pass.extractor.recipe.legacy_hash(),
            config_hash=self.config_hash,
            models=tuple(model.sha256 for model in self.scorer.models),
            decoder=decoder,
            device=self.scorer.device,
            precision=self.scorer.precision,
            libraries=_versions(),
        )

    def _commit(self, unit: Unit, verdicts: Sequence[Verdict]) -> UnitResult:
        write_part(self.target, unit.name, verdicts, self.lease)
        faces = sum(len(v.frames) for v in verdicts)
        return UnitResult(len(verdicts), faces, Counter(v.status for v in verdicts))


@functools.cache
def _versions() -> dict[str, str]:
    """Of the libraries that move a pixel or a logit; a process keeps those it began with."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
