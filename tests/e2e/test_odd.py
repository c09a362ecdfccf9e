"""Strange, rare and broken files: a row each, with PyAV's own frames, times and sizes."""

from pathlib import Path
from typing import Any

import av
import pytest
import torch

from dfscan import extract, storage
from dfscan.commands import score as score_job
from dfscan.commands.score.result import ScoreResult
from dfscan.config.score import ScoreConfig
from dfscan.config.train import InputConfig
from dfscan.errors import VideoError
from dfscan.models.backbones import create_network, network_input
from dfscan.models.modelfile import ModelHeader, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.schemas.status import SUCCEEDED
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


def score_odd(samples: Path, folder: Path, max_failed: float = 1) -> ScoreResult:
    torch.manual_seed(0)
    recipe = FaceRecipe(
        sampling=Sampling(frames=2), input=network_input("mesoinception4", InputConfig(size=64))
    )
    model = folder / "m.safetensors"
    header = ModelHeader(backbone="mesoinception4", recipe=recipe)
    save_model(model, create_network("mesoinception4", 64), header)
    config = ScoreConfig(
        source=(str(samples / "odd"),), model=(str(model),), out=str(folder / "v.parquet"),
        inline=True, frames=2, threshold=0.5, timeout=60, max_failed=max_failed,
    )  # fmt: skip
    return score_job.run(config, Progress())


def test_every_odd_file_has_one_verdict_or_a_reason(
    samples: Path, dataset: Path, tmp_path: Path
) -> None:
    result = score_odd(samples, tmp_path)
    rows = storage.read_table(tmp_path / "v.parquet").to_pylist()
    names = sorted(p.name for p in (samples / "odd").iterdir())
    assert sorted(Path(r["video_id"]).name for r in rows) == names
    extracted = {r["video_id"]: r for r in read(dataset / "videos")}
    for row in rows:
        name, known = row["video_id"], extracted[row["video_id"]]
        if row["verdict"] is None:
            assert row["reason"], name
            assert row["score_raw"] is row["p_fake"] is row["llr"] is None, name
            assert row["frames"] == row["tracks"] == row["top_frames_s"] == [], name
        else:
            assert row["verdict"] == ("FAKE" if row["p_fake"] >= 0.5 else "REAL"), name
            assert row["frames"], name
            assert row["score_raw"] is not None, name
        if row["status"] not in SUCCEEDED:
            assert (row["verdict"], row["reason"]) == (None, known["reason"]), name
        assert (row["status"] in SUCCEEDED) == (known["status"] in SUCCEEDED), name
    failed = sum(r["status"] not in SUCCEEDED for r in rows)
    assert (result.videos, result.new, result.failed) == (len(names), len(names), failed)
    assert sum(r["verdict"] is not None for r in rows) >= 20
    assert result.exit_code == 0
    assert score_odd(samples, tmp_path).new == 0
    assert score_odd(samples, tmp_path, max_failed=0.05).exit_code == 3
