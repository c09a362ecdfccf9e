"""Face crops → logits, by one network or several."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from dfscan import storage
from dfscan.config.types import Precision
from dfscan.errors import ModelError
from dfscan.faces.crops import cut_out, decode
from dfscan.faces.quality import sharpness
from dfscan.models.backbones import normalise
from dfscan.models.modelfile import Model, load_model
from dfscan.schemas.records import FaceRow, FrameScore
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.decision import fuse_scores, median_sharpness

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NamedModel:
    """A model file as the run's start found it."""

    path: storage.StoragePath
    sha256: str


@dataclass(frozen=True)
class FaceScores:
    """What the networks say of N faces, rounded as verdict rows store it.

    :param fused: (N,) float32 logits that decide, see :func:`~dfscan.scoring.decision.fuse_scores`.
    :param members: (M, N) float32 logits of each of M models, before any calibration.
    :param sharpness: (N,) float32, see :func:`dfscan.faces.quality.sharpness`.
    """

    fused: Floats
    members: Floats
    sharpness: Floats

    def __getitem__(self, faces: slice | list[int]) -> "FaceScores":
        """The scores of some of the faces."""
        return FaceScores(self.fused[faces], self.members[:, faces], self.sharpness[faces])

    @property
    def median_sharpness(self) -> float | None:
        """See :func:`~dfscan.scoring.decision.median_sharpness`."""
        return median_sharpness(self.sharpness.tolist())

    def fused_by(self, calibrations: Sequence[Calibration | None]) -> "FaceScores":
        """The same scores, fused with other calibrations of the M models."""
        return replace(self, fused=_fuse(self.members, calibrations))

    def frames(self, faces: Sequence[FaceRow]) -> tuple[FrameScore, ...]:
        """The scored faces (N) as a verdict row holds them."""
        single = len(self.members) == 1
        own = [None] * len(faces) if single else [tuple(face) for face in self.members.T.tolist()]
        return tuple(
            FrameScore(
                pts_s=face.pts_s,
                frame_index=face.frame_index,
                track_id=face.track_id,
                box=_rounded(face.box),
                score_raw=logit,
                logits=logits,
            )
            for face, logit, logits in zip(faces, self.fused.tolist(), own, strict=True)
        )


@dataclass(frozen=True)
class FaceScorer:
    """Scores faces. It is small to send: each process loads the networks at their first use.

    :param models: several score the same faces, each cut as it was trained, and are fused.
    :param calibrations: the models', in their order, which weigh them against each other.
    :param device: torch's name of it. :param precision: what the networks compute in, torch's name.
    :param batch_size: faces that go through a network together, fewer where memory is short.
    """

    models: tuple[NamedModel, ...]
    calibrations: tuple[Calibration | None, ...]
    device: str
    precision: Precision
    batch_size: int

    def load(self) -> list[Model]:
        """The networks, from the files unless this process has them.

        :raises ModelError: a file was replaced since it was named, or is missing or damaged.
        """
        return [_load(model.path, model.sha256, self.device) for model in self.models]

    @torch.inference_mode()
    def score(self, faces: Sequence[FaceRow]) -> FaceScores:
        """Logits of faces from their stored crops, cut and normalised as training does it.

        :raises PictureError: a crop does not decode. :raises ModelError: see :meth:`load`; or not
            even one face fits the GPU's memory.
        """
        models = self.load() if faces else []
        members: list[list[float]] = [[] for _ in self.models]
        sharp: list[float] = []
        for start in range(0, len(faces), self.batch_size):
            batch = faces[start : start + self.batch_size]
            pairs = [(decode(face.image), face) for face in batch]
            sharp += [sharpness(crop, face.crop_box, face.box) for crop, face in pairs]
            for model, found in zip(models, members, strict=True):
                recipe = model.header.recipe.input
                assert recipe is not None
                cut = [cut_out(crop, face.crop_box, face.box, recipe) for crop, face in pairs]
                found.extend(self._logits(model, np.stack(cut)))
        logits = np.array(members, np.float32)
        return FaceScores(
            fused=_fuse(logits, self.calibrations),
            members=logits,
            sharpness=np.array(sharp, np.float32),
        )

    def _logits(self, model: Model, pixels: npt.NDArray[np.uint8]) -> list[float]:
        """A model's logits of faces (N, S, S, 3) uint8 RGB, as many together as fit.

        How many fit a GPU's memory is remembered for the next faces.
        """
        key = (model.sha256, self.device, self.precision)
        found: list[float] = []
        while len(found) < len(pixels):
            size = min(self.batch_size, _fitting.get(key, self.batch_size))
            batch = pixels[len(found) : len(found) + size]
            try:
                found += self._forward(model, batch)
                continue
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            # after the except block: the exception keeps the tensors alive
            if len(batch) == 1:
                raise ModelError(
                    f"not even one face of {pixels.shape[1]} pixels fits into the GPU's memory beside "
                    "the networks: use one with more memory free, or --gpus 0",
                    code="device.unavailable",
                )
            _fitting[key] = len(batch) // 2
            torch.cuda.empty_cache()
        return found

    def _forward(self, model: Model, batch: npt.NDArray[np.uint8]) -> list[float]:
        """Logits of faces that go through the network together.

        A logit that is not finite in half precision is computed again in float32.
        """
        recipe, dtype = model.header.recipe.input, getattr(torch, self.precision)
        assert recipe is not None
        pixels = normalise(torch.from_numpy(batch).to(self.device), recipe)
        if dtype is torch.float32:
            return _as_floats(model.network(pixels))
        with torch.autocast(self.device, dtype):
            logits = _as_floats(model.network(pixels))
        overflown = [at for at, logit in enumerate(logits) if not math.isfinite(logit)]
        if overflown:
            again = _as_floats(model.network(pixels[overflown]))
            for at, logit in zip(overflown, again, strict=True):
                logits[at] = logit
        return logits


_fitting: Final[dict[tuple[str, str, str], int]] = {}
"""Faces that fit the GPU's memory together, by model, device and precision, where they were too many.
Of the process: a scorer is sent to its worker anew with every unit."""


def _is_out_of_memory(error: RuntimeError) -> bool:
    """cuBLAS and cuDNN allocate memory of their own and report its lack in their own words."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def _fuse(logits: Floats, calibrations: Sequence[Calibration | None]) -> Floats:
    return np.array(fuse_scores(logits.tolist(), calibrations), np.float32)


def _rounded(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = np.array(box, np.float32).tolist()
    return x0, y0, x1, y1


def _as_floats(logits: torch.Tensor) -> list[float]:
    found: list[float] = logits.float().cpu().tolist()
    return found


@functools.lru_cache(maxsize=16)
def _load(path: storage.StoragePath, sha256: str, device: str) -> Model:
    """One model of a scorer, loaded once per process."""
    model = load_model(path)
    if model.sha256 != sha256:
        raise ModelError(
            f"{path} was replaced while scoring: run the same command again", code="model.changed"
        )
    torch.set_num_threads(1)  # as many workers as CPUs, and logits equal to the bit wherever
    torch.backends.cudnn.allow_tf32 = False  # they must not depend on the card
    model.network.to(device)
    return model
