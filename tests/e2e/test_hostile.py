"""Two hundred real clips with flipped bits and missing ends: a row each, and no invented pixels."""

import io
import random
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from dfscan import extract, storage

COUNT = 200


@pytest.fixture(scope="module")
def sources(samples: Path) -> list[Path]:
    clips = sorted((samples / "clips").rglob("*.mp4"))
    return clips + sorted((samples / "dfdc").rglob("*.mp4"))[:1]


def damage(data: bytes, number: int, chance: random.Random) -> bytes:
    """Every fourth clip is cut, the others have 1 to 1,000 bits flipped."""
    if number % 4 == 3:
        return data[: chance.randrange(len(data) // 10, len(data))]
    flipped = bytearray(data)
    for _ in range(10 ** chance.randint(0, 3)):
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def look(source: Path, out: Path) -> tuple[dict[str, Any], dict[tuple[str, int], Any]]:
    """Video rows by name, and the whole frames by name and frame index."""
    extract(
        str(source), out=str(out), inline=True, detector={"name": "none"}, stride=60, phase=0,
        crop={"codec": "png", "max_size": 256}, timeout=30, max_failed=1,
    )  # fmt: skip
    videos = {
        Path(r["video_id"]).name: r
        for _, t in storage.read_tables(out / "videos")
        for r in t.to_pylist()
    }
    frames = {
        (Path(r["video_id"]).name, r["frame_index"]): np.asarray(
            Image.open(io.BytesIO(r["image"]["bytes"])).convert("L"), np.float32
        )
        for _, t in storage.read_tables(out / "faces")
        for r in t.to_pylist()
    }
    return videos, frames


def undisturbed(path: Path) -> int | None:
    """How many frames PyAV gets out of a file it has nothing to say about; else None."""
    try:
        with av.open(str(path), format="mov") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1  # with several it tells of less
            frames = [f for packet in container.demux(stream) for f in packet.decode()]
    except (av.error.FFmpegError, IndexError, AttributeError):
        return None
    return None if any(f.is_corrupt for f in frames) else len(frames)


def test_damaged_clips_end_as_rows_with_honest_counts(sources: list[Path], tmp_path: Path) -> None:
    chance = random.Random(0)
    for folder in ("whole", "damaged"):
        (tmp_path / folder).mkdir()
    for number in range(COUNT):
        clip = sources[number % len(sources)]
        name = f"{number:03d}.mp4"
        (tmp_path / "damaged" / name).write_bytes(damage(clip.read_bytes(), number, chance))
    for number, clip in enumerate(sources):
        (tmp_path / "whole" / f"{number:03d}.mp4").write_bytes(clip.read_bytes())
    whole, truth = look(tmp_path / "whole", tmp_path / "faces-whole")
    rows, frames = look(tmp_path / "damaged", tmp_path / "faces-damaged")

    assert {r["status"] for r in whole.values()} == {"ok"}
    assert len(rows) == COUNT
    known = {"ok", "partial", "decode_error", "not_video", "unsupported"}
    assert {r["status"] for r in rows.values()} <= known  # none crashed, none hung
    assert max(r["elapsed_s"] for r in rows.values()) < 30
    for name, row in whole.items():
        assert row["frames_decoded"] == undisturbed(tmp_path / "whole" / name) > 0, name
    for name, row in rows.items():
        counted = undisturbed(tmp_path / "damaged" / name)
        assert counted in (None, 0, row["frames_decoded"]), name
        if row["status"] == "partial":
            assert row["frames_lost"] > 0, name
        if row["status"] == "ok":
            assert row["frames_lost"] == 0, name
            assert row["frames_sampled"] == row["faces"] > 0, name
    assert sum(r["status"] == "partial" for r in rows.values()) >= 20

    true = wrong = 0
    for (name, index), picture in frames.items():
        original = truth.get((f"{int(name[:3]) % len(sources):03d}.mp4", index))
        if original is not None and original.shape == picture.shape:
            near = np.mean((original - picture) ** 2) < 65  # PSNR above 30 dB
            true, wrong = true + near, wrong + (not near)
    assert true > 100
    assert wrong < 0.05 * true
