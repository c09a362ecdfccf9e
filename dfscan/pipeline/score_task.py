"""Videos of one unit → verdicts: the look of extraction with a classifier behind it."""

import contextlib
import functools
import importlib.metadata
import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from dfscan import __version__, storage
from dfscan.config.types import Precision
from dfscan.errors import ModelError
from dfscan.faces.crops import cut_out, decode
from dfscan.faces.quality import sharpness
from dfscan.models.backbones import normalise
from dfscan.models.modelfile import Model, load_model
from dfscan.pipeline.concurrency import map_concurrent
from dfscan.pipeline.extraction.extractor import ExtractionResult, FaceExtractor, failed_row
from dfscan.pipeline.work_units import Unit, UnitResult, split_per_video
from dfscan.schemas.records import (
    Custody,
    FaceRow,
    FrameScore,
    Verdict,
    VideoRef,
    VideoRow,
)
from dfscan.schemas.status import UNREAD
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.decision import DecisionRule, decide, face_px, fuse_scores
from dfscan.storage import Lease
from dfscan.verdicts.parts import write_part

_LIBRARIES: Final = ("torch", "torchvision", "timm", "numpy", "pillow", "facenet-pytorch")


@dataclass(frozen=True)
class NamedModel:
    """A model file as the run's start found it."""

    path: storage.StoragePath
    sha256: str


@dataclass(frozen=True)
class ScoringPass:
    """A way to a verdict; ``name`` is the column ``look``: ``full``, or ``quick`` for key frames."""

    name: str
    extractor: FaceExtractor
    rule: DecisionRule


@dataclass(frozen=True)
class ScoreTask:
    """Looks at each video, scores its faces, and commits the unit's verdicts to ``target``.

    Several models judge the same faces, each cut as it wants them, and their scores are combined
    (:func:`~dfscan.scoring.decision.fuse_scores`). ``calibrations`` are theirs, in their order. What the ``quick``
    way calls REAL is settled, all else is looked at in full.
    ``fingerprint_inputs`` is everything that decides about a verdict, ``config_hash`` its fingerprint.

    :param precision: what the networks compute in, torch's name of it.
    :param batch_size: faces that go through a network together, where so many fit.
    """

    extractor: FaceExtractor
    models: tuple[NamedModel, ...]
    calibrations: tuple[Calibration | None, ...]
    rule: DecisionRule
    precision: Precision
    batch_size: int
    config_hash: str
    fingerprint_inputs: Mapping[str, Any]
    target: storage.StoragePath
    lease: Lease | None = None
    quick: ScoringPass | None = None

    @property
    def full(self) -> ScoringPass:
        """The way that every video goes that is not settled before."""
        return ScoringPass("full", self.extractor, self.rule)

    def __call__(self, unit: Unit) -> UnitResult:
        """Do and commit the unit."""
        if self.quick is None:
            return self._commit(unit, self._look_at(unit.videos, self.full))
        first = self._look_at(unit.videos, self.quick)
        settled = {v.video_id: v for v in first if v.verdict == "REAL" or v.status in UNREAD}
        spent = {v.video_id: v.elapsed_s or 0.0 for v in first}
        left = [ref for ref in unit.videos if ref.video_id not in settled]
        deep = [
            replace(v, elapsed_s=(v.elapsed_s or 0.0) + spent[v.video_id])
            for v in self._look_at(left, self.full)
        ]
        return self._commit(unit, [*settled.values(), *deep])

    def _look_at(self, videos: Sequence[VideoRef], scoring_pass: ScoringPass) -> list[Verdict]:
        """A verdict for each; the networks see the faces of several videos together."""
        verdicts: list[Verdict] = []
        waiting: list[ExtractionResult] = []
        with contextlib.closing(
            map_concurrent(scoring_pass.extractor, scoring_pass.extractor.extract, videos)
        ) as found:
            for seen in found:
                waiting.append(seen)
                if sum(len(s.faces) for s in waiting) >= self.batch_size:
                    verdicts += self._verdicts(waiting, scoring_pass)
                    waiting.clear()
        return [*verdicts, *self._verdicts(waiting, scoring_pass)]

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        """Commit a null verdict with this status for every video, without opening any."""
        rows = [failed_row(ref, status, reason) for ref in unit.videos]
        return self._commit(unit, [self._verdict(row, [], [], [], self.full) for row in rows])

    def split(self, unit: Unit) -> list[Unit]:
        """See :class:`~dfscan.pipeline.work_units.Task`."""
        return split_per_video(unit)

    def _verdicts(
        self, videos: Sequence[ExtractionResult], scoring_pass: ScoringPass
    ) -> list[Verdict]:
        faces = [face for seen in videos for face in seen.faces]
        scores, sharp = self.scores(faces)
        verdicts, begin = [], 0
        for seen in videos:
            own = slice(begin, begin + len(seen.faces))
            verdicts.append(
                self._verdict(seen.row, seen.faces, scores[own], sharp[own], scoring_pass)
            )
            begin = own.stop
        return verdicts

    @torch.inference_mode()
    def scores(self, faces: Sequence[FaceRow]) -> tuple[list[float], list[float]]:
        """The combined logit of each face, from the stored crop as training reads it; its sharpness."""
        models = [_model(m.path, m.sha256, self.extractor.device) for m in self.models]
        logits: list[list[float]] = [[] for _ in models]
        sharp: list[float] = []
        for start in range(0, len(faces), self.batch_size):
            batch = faces[start : start + self.batch_size]
            crops = [decode(face.image) for face in batch]
            pairs = list(zip(crops, batch, strict=True))
            sharp += [sharpness(crop, face.crop_box, face.box) for crop, face in pairs]
            for model, own in zip(models, logits, strict=True):
                recipe = model.header.recipe.input
                assert recipe is not None
                shown = [cut_out(crop, face.crop_box, face.box, recipe) for crop, face in pairs]
                own.extend(self._logits(model, np.stack(shown)))
        return fuse_scores(logits, self.calibrations), sharp

    def _logits(self, model: Model, shown: npt.NDArray[np.uint8]) -> list[float]:
        """A model's logits of faces (N, S, S, 3) uint8 RGB, as many together as fit.

        How many fit a GPU's memory is remembered for the next faces.

        :raises ModelError: not even one does.
        """
        key = (model.sha256, self.extractor.device, self.precision)
        found: list[float] = []
        while len(found) < len(shown):
            some = shown[len(found) :][: min(self.batch_size, _fitting.get(key, self.batch_size))]
            try:
                found += self._forward(model, some)
                continue
            except RuntimeError as error:
                if not _is_lack_of_memory(error):
                    raise  # else what did not fit is freed only outside of here, with the error
            if len(some) == 1:
                raise ModelError(
                    f"not even one face of {shown.shape[1]} pixels fits into the GPU's memory beside "
                    "the networks: use one with more memory free, or --gpus 0",
                    code="device.unavailable",
                )
            _fitting[key] = len(some) // 2
            torch.cuda.empty_cache()
        return found

    def _forward(self, model: Model, shown: npt.NDArray[np.uint8]) -> list[float]:
        """Logits of faces that go through the network together.

        A logit that is not finite in half precision is computed again in float32.
        """
        recipe, dtype = model.header.recipe.input, getattr(torch, self.precision)
        assert recipe is not None
        pixels = normalise(torch.from_numpy(shown).to(self.extractor.device), recipe)
        if dtype is torch.float32:
            return _as_floats(model.network(pixels))
        with torch.autocast(self.extractor.device, dtype):
            logits = _as_floats(model.network(pixels))
        beyond = [place for place, logit in enumerate(logits) if not math.isfinite(logit)]
        if beyond:
            again = _as_floats(model.network(pixels[beyond]))
            for place, logit in zip(beyond, again, strict=True):
                logits[place] = logit
        return logits

    def _verdict(
        self,
        row: VideoRow,
        faces: Sequence[FaceRow],
        logits: Sequence[float],
        sharp: Sequence[float],
        scoring_pass: ScoringPass,
    ) -> Verdict:
        frames = tuple(
            FrameScore(f.pts_s, f.frame_index, f.track_id, f.box, logit)
            for f, logit in zip(faces, logits, strict=True)
        )
        decision = decide(
            row.status,
            row.reason,
            frames,
            scoring_pass.rule,
            sampled=row.frames_sampled,
            sharpness=statistics.median(sharp) if sharp else None,
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
            custody=self._custody(row.decoder, scoring_pass),
            scanned_at=time.time(),
            elapsed_s=row.elapsed_s,
        )

    def _custody(self, decoder: str | None, scoring_pass: ScoringPass) -> Custody:
        return Custody(
            dfscan=__version__,
            recipe_hash=scoring_pass.extractor.recipe.hash(),
            config_hash=self.config_hash,
            models=tuple(model.sha256 for model in self.models),
            decoder=decoder,
            device=self.extractor.device,
            precision=self.precision,
            libraries=_versions(),
        )

    def _commit(self, unit: Unit, verdicts: Sequence[Verdict]) -> UnitResult:
        write_part(self.target, unit.name, verdicts, self.lease)
        faces = sum(len(v.frames) for v in verdicts)
        return UnitResult(len(verdicts), faces, Counter(v.status for v in verdicts))


_fitting: Final[dict[tuple[str, str, str], int]] = {}
"""Faces that fit the GPU's memory together, by model, device and precision, where they were too many.
Of the process: a task is sent to its worker anew with every unit."""


def _is_lack_of_memory(error: RuntimeError) -> bool:
    """cuBLAS and cuDNN ask for memory of their own and have their own words where there is none."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


@functools.cache
def _versions() -> dict[str, str]:
    """Of the libraries that move a pixel or a logit; a process keeps those it began with."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _as_floats(logits: torch.Tensor) -> list[float]:
    found: list[float] = logits.float().cpu().tolist()
    return found


@functools.lru_cache(maxsize=16)
def _model(path: storage.StoragePath, sha256: str, device: str) -> Model:
    """The model of a run, loaded once a process; the file must still be the one that was named.

    :raises ModelError: the file is another by now.
    """
    model = load_model(path)
    if model.sha256 != sha256:
        raise ModelError(
            f"{path} was replaced while scoring: run the same command again", code="model.changed"
        )
    torch.set_num_threads(1)  # as many workers as CPUs, and logits equal to the bit wherever
    torch.backends.cudnn.allow_tf32 = False  # they must not depend on the card
    model.network.to(device)
    return model
