"""MTCNN: the cascade of Zhang et al., 2016 (arXiv:1604.02878), on facenet-pytorch's networks.

Boxes, landmarks and scores are those of facenet-pytorch 2.5.3's ``detect_face`` to a thousandth of
a pixel: the pyramid and the cut-outs are the library's to rounding (:mod:`dfscan.faces.pyramid`).
Cheaper variants were tried: levels made from levels, or cut-outs from four or nine samples per bin,
move one face in six or in forty to an IoU below 0.9, because non-maximum suppression amplifies
small differences. Deviations from the library:

- Frames pass the three stages in batches of ``BATCH_PIXELS``, without influencing each other.
- Where the library raises an exception, there are no faces: a frame too small for any level, a
  candidate wholly outside the frame (dropped with its score), no candidate left after a stage.
- Faces of equal size come in the order of detection; the library's order is arbitrary.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from facenet_pytorch.models.utils.detect_face import bbreg, rerec
from torch import Tensor
from torchvision.ops import nms

from dfscan.faces import pyramid
from dfscan.faces.base import NO_FACES, Detections, FaceDetector
from dfscan.faces.mtcnn_networks import ONet, PNet, RNet
from dfscan.faces.pyramid import Pictures, Workspace
from dfscan.schemas.recipe import Detector

BATCH_PIXELS: Final = {"cpu": 8 << 20, "cuda": 64 << 20}
"""Total pixels per batch of frames, by device type."""

_CHUNK_PIXELS: Final = 1 << 17
"""Total pixels per forward pass of PNet, which fit the cache."""

_CHUNK: Final = {24: 32, 48: 16}
"""Cut-outs per forward pass of RNet and ONet, for the same reason."""

_GPU_CHUNK: Final = 4096


class MTCNN(FaceDetector):
    """The three networks and their thresholds, ready to detect.

    The published weights are part of the facenet-pytorch package.
    """

    def __init__(self, recipe: Detector, device: str = "cpu") -> None:
        self._thresholds = recipe.thresholds
        self._factor = recipe.factor
        self._min_score = recipe.min_score
        self._device = torch.device(device)
        self._workspace = Workspace()
        self._pnet = PNet(self._device)
        self._rnet = RNet(self._device)
        self._onet = ONet(self._device)

    @torch.inference_mode()
    def detect(self, frames: Sequence[npt.NDArray[np.uint8]], min_face: int) -> list[Detections]:
        """See :meth:`FaceDetector.detect`."""
        if not frames:
            return []
        height, width, _ = frames[0].shape
        many = max(1, BATCH_PIXELS[self._device.type] // (height * width))
        found: list[Detections] = []
        for start in range(0, len(frames), many):
            some = (np.require(f, requirements=["C", "W"]) for f in frames[start : start + many])
            found += self._detect([torch.from_numpy(f).to(self._device) for f in some], min_face)
        return found

    def _detect(self, frames: Sequence[Tensor], min_face: int) -> list[Detections]:
        """The three stages over a batch of frames, (H, W, 3) uint8."""
        pictures = pyramid.pictures(frames, self._workspace)
        boxes, owners = self._propose(pictures, min_face)
        boxes, owners = self._refine(pictures, boxes, owners)
        boxes, points, owners = self._output(pictures, boxes, owners)
        keep = boxes[:, 4] >= self._min_score
        boxes, points, owners = boxes[keep], points[keep], owners[keep]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = torch.argsort(area, descending=True, stable=True)
        all_boxes, all_points = boxes[order].cpu().numpy(), points[order].cpu().numpy()
        all_owners = owners[order].cpu().numpy()
        return [
            Detections(all_boxes[mine, :4], all_points[mine], all_boxes[mine, 4])
            if (mine := all_owners == number).any()
            else NO_FACES
            for number in range(len(frames))
        ]

    def _propose(self, pictures: Pictures, min_face: int) -> tuple[Tensor, Tensor]:
        """First stage: PNet over an image pyramid → squared candidates (N, 5) and their frames."""
        scales = pyramid.scales(pictures.height, pictures.width, min_face, self._factor)
        found = [torch.zeros(0, 9, device=self._device)]
        owners = [torch.zeros(0, dtype=torch.long, device=self._device)]
        groups = owners[:]
        for number, scale in enumerate(scales):
            for first, probability, offsets in self._scan(pictures.level(scale)):
                owner, x, y = torch.nonzero(probability >= self._thresholds[0], as_tuple=True)
                corner = torch.stack([x, y], dim=1).float()
                found.append(
                    torch.cat(
                        [
                            ((2 * corner + 1) / scale).floor(),
                            ((2 * corner + pyramid.CELL) / scale).floor(),
                            probability[owner, x, y][:, None],
                            offsets[owner, :, x, y],
                        ],
                        dim=1,
                    )
                )
                owners.append(owner + first)
                groups.append((owner + first) * len(scales) + number)
        boxes, owner, group = torch.cat(found), torch.cat(owners), torch.cat(groups)
        pick = _nms(boxes, group, 0.5)
        boxes, owner = boxes[pick], owner[pick]
        pick = _nms(boxes, owner, 0.7)
        boxes, owner = boxes[pick], owner[pick]
        sides = (boxes[:, 2:4] - boxes[:, 0:2]).repeat(1, 2)
        corners = boxes[:, :4] + boxes[:, 5:9] * sides
        return rerec(torch.cat([corners, boxes[:, 4:5]], dim=1)), owner

    def _scan(self, level: Tensor) -> list[tuple[int, Tensor, Tensor]]:
        """PNet over the pictures of one level, in chunks: (first, probability, offsets)."""
        count, _, width, height = level.shape
        pixels = _CHUNK_PIXELS if self._device.type == "cpu" else BATCH_PIXELS["cuda"]
        many = max(1, pixels // (width * height))
        return [
            (first, *self._pnet(level[first : first + many])) for first in range(0, count, many)
        ]

    def _refine(self, pictures: Pictures, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Second stage: RNet at 24 pixels → (M, 5) and their frames."""
        boxes, owners, patches = _cut(pictures, boxes, owners, 24)
        probability, offsets = self._judge(self._rnet, patches)
        keep = probability > self._thresholds[1]
        boxes = torch.cat([boxes[keep, :4], probability[keep, None]], dim=1)
        owners, offsets = owners[keep], offsets[keep]
        pick = _nms(boxes, owners, 0.7)
        return rerec(bbreg(boxes[pick], offsets[pick])), owners[pick]

    def _output(
        self, pictures: Pictures, boxes: Tensor, owners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Third stage: ONet at 48 pixels → (K, 5), landmarks (K, 5, 2) and their frames."""
        boxes, owners, patches = _cut(pictures, boxes, owners, 48)
        probability, offsets, points = self._judge(self._onet, patches)
        keep = probability > self._thresholds[2]
        boxes = torch.cat([boxes[keep, :4], probability[keep, None]], dim=1)
        owners, offsets, points = owners[keep], offsets[keep], points[keep]
        size = boxes[:, 2:4] - boxes[:, 0:2] + 1
        points_x = size[:, 0:1] * points[:, :5] + boxes[:, 0:1] - 1
        points_y = size[:, 1:2] * points[:, 5:10] + boxes[:, 1:2] - 1
        landmarks = torch.stack([points_x, points_y], dim=2)
        boxes = bbreg(boxes, offsets)
        pick = _nms_of_smaller(boxes, owners, 0.7)
        return boxes[pick], landmarks[pick], owners[pick]

    def _judge(self, network: Callable[[Tensor], Any], patches: Tensor) -> tuple[Tensor, ...]:
        """Run a network over cut-outs, in chunks."""
        many = _CHUNK[patches.shape[-1]] if self._device.type == "cpu" else _GPU_CHUNK
        starts = range(0, max(1, len(patches)), many)
        outputs = [network(patches[i : i + many]) for i in starts]
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


def _nms(boxes: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression within each group in one call: groups are offset from each other."""
    if not len(boxes):
        return groups
    reach = boxes[:, :4].max() - boxes[:, :4].min() + 1
    apart = boxes[:, :4].double() + (groups * reach.double())[:, None]
    kept: Tensor = nms(apart, boxes[:, 4].double(), threshold)
    return kept


def _nms_of_smaller(boxes: Tensor, owners: Tensor, threshold: float) -> Tensor:
    """Greedy suppression by overlap as a share of the smaller box, pixels counted inclusively.

    Equal to the library's ``nms_numpy(…, 'Min')``, ties included: of equal scores the later wins.
    """
    corners, owner = boxes[:, :4].cpu().numpy(), owners.cpu().numpy()
    order = np.argsort(boxes[:, 4].cpu().numpy())[::-1]
    sizes = (corners[:, 2:] - corners[:, :2] + 1).prod(1)
    kept: list[int] = []
    for number in np.unique(owner):
        waiting = [index for index in order if owner[index] == number]
        while waiting:
            first, rest = waiting[0], np.array(waiting[1:], int)
            kept.append(first)
            begin = np.maximum(corners[first, :2], corners[rest, :2])
            end = np.minimum(corners[first, 2:], corners[rest, 2:])
            shared = np.maximum(0, end - begin + 1).prod(1)
            overlap = shared / np.minimum(sizes[first], sizes[rest])
            waiting = rest[overlap <= threshold].tolist()
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def _cut(
    pictures: Pictures, boxes: Tensor, owners: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 5) → those inside their frame, their frames, their cut-outs (M, 3, size, size).

    Cut at whole pixels as the library does; 0 to 255, transposed.
    """
    whole = boxes[:, :4].trunc().long()
    begin = whole[:, :2].clamp(min=1) - 1
    end = torch.minimum(whole[:, 2:], whole.new_tensor([pictures.width, pictures.height]))
    inside = (end > begin).all(1)
    boxes, owners = boxes[inside], owners[inside]
    return boxes, owners, pictures.cut(owners, begin[inside], end[inside], size)
