"""MTCNN: the cascade of Zhang et al., 2016 (arXiv:1604.02878), on facenet-pytorch's networks.

The arithmetic of facenet-pytorch 2.5.3's ``detect_face`` is kept to the pixel, so its boxes are
the reference. Three differences, all at edges where the library raises an exception: a frame
too small for any pyramid level has no faces; a candidate that lies wholly outside the frame is
dropped with its score; frames without a candidate left after a stage end there.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
from facenet_pytorch.models.utils.detect_face import (
    batched_nms_numpy,
    bbreg,
    generateBoundingBox,
    imresample,
    rerec,
)
from torch import Tensor
from torchvision.ops import batched_nms

from dfscan.faces.base import NO_FACES, Detections, FaceDetector
from dfscan.recipe import Detector

CELL: Final = 12
"""PNet's receptive field in pixels: the smallest face it sees at scale 1."""

_CHUNK: Final = 512
"""Candidates a forward pass of RNet and ONet."""


class MTCNN(FaceDetector):
    """The three networks and their thresholds, ready to detect.

    The published weights travel inside the facenet-pytorch package.
    """

    def __init__(self, recipe: Detector, device: str = "cpu") -> None:
        self._thresholds = recipe.thresholds
        self._factor = recipe.factor
        self._min_score = recipe.min_score
        self._device = torch.device(device)
        self._pnet = PNet().eval().to(self._device)
        self._rnet = RNet().eval().to(self._device)
        self._onet = ONet().eval().to(self._device)

    @torch.inference_mode()
    def detect(self, frames: Sequence[npt.NDArray[np.uint8]], min_face: int) -> list[Detections]:
        """See :meth:`FaceDetector.detect`; frames pass one by one, so none depends on another."""
        return [self._detect_one(frame, min_face) for frame in frames]

    def _detect_one(self, frame: npt.NDArray[np.uint8], min_face: int) -> Detections:
        image = torch.tensor(frame, device=self._device)
        image = image.permute(2, 0, 1)[None].float()
        boxes = self._propose(image, min_face)
        if not len(boxes):
            return NO_FACES
        boxes = self._refine(image, boxes)
        if not len(boxes):
            return NO_FACES
        boxes, points, scores = self._output(image, boxes)
        keep = scores >= self._min_score
        boxes, points, scores = boxes[keep], points[keep], scores[keep]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = torch.argsort(area, descending=True, stable=True)
        return Detections(
            boxes[order].cpu().numpy(), points[order].cpu().numpy(), scores[order].cpu().numpy()
        )

    def _propose(self, image: Tensor, min_face: int) -> Tensor:
        """First stage: PNet over an image pyramid → (N, 5) squared candidates and scores."""
        height, width = image.shape[2:]
        found = []
        for scale in pyramid_scales(height, width, min_face, self._factor):
            size = (int(height * scale + 1), int(width * scale + 1))
            level = (imresample(image, size) - 127.5) * 0.0078125
            offsets, probabilities = self._pnet(level)
            boxes, _ = generateBoundingBox(offsets, probabilities[:, 1], scale, self._thresholds[0])
            found.append(boxes[_nms(boxes[:, :4], boxes[:, 4], 0.5)])
        if not found:
            return torch.zeros(0, 5)
        boxes = torch.cat(found)
        boxes = boxes[_nms(boxes[:, :4], boxes[:, 4], 0.7)]
        sides = (boxes[:, 2:4] - boxes[:, 0:2]).repeat(1, 2)
        corners = boxes[:, :4] + boxes[:, 5:9] * sides
        squared: Tensor = rerec(torch.cat([corners, boxes[:, 4:5]], dim=1))
        return squared

    def _refine(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Second stage: RNet at 24 pixels → (M, 5)."""
        boxes, patches = _patches(image, boxes, 24)
        if not len(boxes):
            return boxes
        offsets, probabilities = _in_chunks(self._rnet, patches)
        keep = probabilities[:, 1] > self._thresholds[1]
        boxes = torch.cat([boxes[keep, :4], probabilities[keep, 1:2]], dim=1)
        offsets = offsets[keep]
        pick = _nms(boxes[:, :4], boxes[:, 4], 0.7)
        refined: Tensor = rerec(bbreg(boxes[pick], offsets[pick]))
        return refined

    def _output(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Third stage: ONet at 48 pixels → boxes (K, 4), landmarks (K, 5, 2), scores (K,)."""
        boxes, patches = _patches(image, boxes, 48)
        if not len(boxes):
            return boxes[:, :4], boxes.new_zeros(0, 5, 2), boxes[:, 4]
        offsets, points, probabilities = _in_chunks(self._onet, patches)
        keep = probabilities[:, 1] > self._thresholds[2]
        boxes = torch.cat([boxes[keep, :4], probabilities[keep, 1:2]], dim=1)
        offsets, points = offsets[keep], points[keep]
        size = boxes[:, 2:4] - boxes[:, 0:2] + 1
        points_x = size[:, 0:1] * points[:, :5] + boxes[:, 0:1] - 1
        points_y = size[:, 1:2] * points[:, 5:10] + boxes[:, 1:2] - 1
        landmarks = torch.stack([points_x, points_y], dim=2)
        boxes = bbreg(boxes, offsets)
        one_image = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        pick = batched_nms_numpy(boxes[:, :4], boxes[:, 4], one_image, 0.7, "Min")
        return boxes[pick, :4], landmarks[pick], boxes[pick, 4]


def pyramid_scales(height: int, width: int, min_face: int, factor: float) -> list[float]:
    """Scales at which PNet sees faces of ``min_face`` pixels and larger; may be empty."""
    scale = CELL / min_face
    shorter = min(height, width) * scale
    scales = []
    while shorter >= CELL:
        scales.append(scale)
        scale *= factor
        shorter *= factor
    return scales


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """As the library calls it: its batched NMS shifts boxes by image, which for one is by 0."""
    kept: Tensor = batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.long), threshold)
    return kept


def _patches(image: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cut boxes (N, 5) out of an image (1, 3, H, W) → the boxes inside it and (M, 3, s, s)."""
    height, width = image.shape[2:]
    corners = boxes[:, :4].trunc().long()
    x0, y0 = corners[:, 0].clamp(min=1), corners[:, 1].clamp(min=1)
    x1, y1 = corners[:, 2].clamp(max=width), corners[:, 3].clamp(max=height)
    inside = (x1 > x0 - 1) & (y1 > y0 - 1)
    cuts = torch.stack([x0 - 1, y0 - 1, x1, y1], dim=1)[inside].tolist()
    patches = [imresample(image[:, :, t:b, left:r], (size, size)) for left, t, r, b in cuts]
    stacked = torch.cat(patches) if patches else image.new_zeros(0, 3, size, size)
    return boxes[inside], (stacked - 127.5) * 0.0078125


def _in_chunks(network: torch.nn.Module, patches: Tensor) -> tuple[Tensor, ...]:
    outputs = [network(patches[i : i + _CHUNK]) for i in range(0, len(patches), _CHUNK)]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
