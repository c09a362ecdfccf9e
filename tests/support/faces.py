"""Face datasets made by hand: small invented pictures, no video behind them."""

import io
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dfscan.datasets.face_dataset import FaceSet
from dfscan.faces.crops import expand
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import SCHEMA_VERSION, FaceRow, VideoRow

BOX = (60.0, 60.0, 120.0, 130.0)
RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=3, fake=3)))


def picture(name: str, quality: int = 90, size: int = 48) -> bytes:
    """A JPEG of smooth noise: the same for the same name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    sink = io.BytesIO()
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def face(video_id: str, label: str | None = "REAL", frame: int = 0, **changes: Any) -> FaceRow:
    """One face; a video is a group of its own unless told otherwise."""
    values: dict[str, Any] = {
        "video_id": video_id, "uri": f"/{video_id}", "part": "p", "label": label,
        "original": None, "group": video_id, "attributes": {}, "frame_index": frame,
        "pts_s": frame / 10, "key_frame": frame == 0, "face_index": 0, "box": BOX,
        "landmarks": None, "detector_score": 0.99, "box_from": "detected",
        "crop_box": expand(BOX, 0.6), "image": b"",
    }  # fmt: skip
    row = FaceRow(**(values | changes))
    name = f"{video_id} {frame} {row.face_index}"
    return row if row.image else replace(row, image=picture(name))


def person(name: str, frames: int = 3, fakes: int = 1, **changes: Any) -> list[FaceRow]:
    """The faces of an original and of so many fakes of it, at the same frames."""
    original = f"{name}.mp4"
    rows = [face(original, "REAL", i, **({"group": name} | changes)) for i in range(frames)]
    for number in range(fakes):
        about = {"group": name, "original": original} | changes
        rows += [face(f"{name}_{number}.mp4", "FAKE", i, **about) for i in range(frames)]
    return rows


def write_faces(
    root: Path,
    rows: Iterable[FaceRow],
    units: int = 1,
    digests: Mapping[str, str] | None = None,
    recipe: FaceRecipe = RECIPE,
) -> FaceSet:
    """A finished dataset of these faces, spread over so many files."""
    made, faces = FaceSet(root), list(rows)
    header = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe.model_dump(mode="json"),
        "config": {},
    }
    made.prepare(header, overwrite=False)
    bounds = np.linspace(0, len(faces), units + 1).astype(int)
    for number, (start, end) in enumerate(pairwise(bounds.tolist())):
        mine = faces[start:end]
        videos = {
            row.video_id: VideoRow(
                row.video_id, row.uri, row.part, 1, "1", row.label, row.original, row.group, {},
                "ok", content_sha256=(digests or {}).get(row.video_id),
            )
            for row in mine
        }  # fmt: skip
        made.commit(f"u{number}", list(videos.values()), mine)
    return made
