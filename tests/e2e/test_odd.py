"""Strange, rare and broken files: a row each, with PyAV's own frames, times and sizes."""

from pathlib import Path
from typing import Any

import av
import pytest

from dfscan import extract, storage
from dfscan.errors import VideoError
from dfscan.video import containers

Shown = dict[int | None, tuple[float | None, int, int, int]]


def shown(path: Path) -> Shown | None:
    """Time stamp → (seconds, width, height, rotation) of every frame; None where one is damaged."""
    frames: Shown = {}
    try:
        demuxer = containers.recognise(path.read_bytes()[: containers.HEAD])
        with av.open(str(path), format=demuxer) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for packet in container.demux(stream):
                for frame in packet.decode():
                    if frame.is_corrupt:
                        return None
                    when = None if frame.time is None else float(frame.time)
                    frames[frame.pts] = (when, frame.width, frame.height, frame.rotation)
    except (VideoError, av.error.FFmpegError, IndexError, AttributeError, ValueError):
        return None
    return frames or None


@pytest.fixture(scope="module")
def dataset(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("odd") / "faces"
    extract(
        str(samples / "odd"), out=str(out), inline=True, stride=7, phase=0, timeout=60,
        detector={"name": "none"}, crop={"face_size": 32}, max_failed=1,
    )  # fmt: skip
    return out


def read(folder: Path) -> list[dict[str, Any]]:
    return [r for _, t in storage.read_tables(folder) for r in t.to_pylist()]


def test_every_odd_file_has_one_row(samples: Path, dataset: Path) -> None:
    rows = read(dataset / "videos")
    assert sorted(Path(r["video_id"]).name for r in rows) == sorted(
        p.name for p in (samples / "odd").iterdir()
    )
    known = {"ok", "partial", "not_video", "refused", "unsupported", "decode_error"}
    assert {r["status"] for r in rows} <= known
    assert all((r["reason"] is None) == (r["status"] == "ok") for r in rows)


def test_frames_times_and_sizes_are_those_of_the_container(samples: Path, dataset: Path) -> None:
    faces: dict[str, dict[int, float]] = {}
    for face in read(dataset / "faces"):
        faces.setdefault(Path(face["video_id"]).name, {})[face["frame_index"]] = face["pts_s"]
    compared = rotated = 0
    for row in read(dataset / "videos"):
        name = Path(row["video_id"]).name
        frames = shown(samples / "odd" / name)
        if frames is None:
            continue
        compared += 1
        assert row["frames_decoded"] == len(frames), name
        lost = max(0, (row["frames_claimed"] or 0) - len(frames))
        assert row["status"] == ("ok" if not row["frames_lost"] else "partial"), name
        assert row["frames_lost"] >= lost or row["status"] == "ok", name
        _, width, height, rotation = next(iter(frames.values()))
        turned = bool(rotation % 180)
        rotated += turned
        size = (height, width) if turned else (width, height)
        assert (row["width"], row["height"]) == size, name
        if None not in frames:
            times = [when for _, (when, *_) in sorted(frames.items())]
            for index, seconds in faces[name].items():
                assert seconds == pytest.approx(times[index], abs=1e-3), name
    assert compared >= 60
    assert rotated >= 2
