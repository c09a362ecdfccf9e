"""Shared material: the samples folder where there is one, and small clips made here."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dfscan.commands import extract as extract_job
from dfscan.commands.quickstart.synthetic import Corpus, CorpusSpec, make_corpus
from dfscan.config.extract import ExtractConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import Stride
from dfscan.training import results as train_results

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real media to try things on; never part of the repository."""
    default = Path(__file__).parents[2] / "shared" / "samples"
    folder = Path(os.environ.get("DFSCAN_SAMPLES", default))
    if not folder.is_dir():
        pytest.skip(f"no sample media at {folder} (set DFSCAN_SAMPLES)")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Six invented people in two DFDC-shaped parts, two others in a test part."""
    spec = CorpusSpec(people=6, test_people=2, frames=12, size=320)
    return make_corpus(tmp_path_factory.mktemp("corpus"), spec)


@pytest.fixture(scope="session")
def faceset(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """The faces of the training parts, every 3rd frame. Not to be written to."""
    out = tmp_path_factory.mktemp("faces") / "faces"
    parts = tuple(str(p) for p in corpus.parts)
    config = ExtractConfig(source=parts, out=str(out), stride=Stride(real=3, fake=3), inline=True)
    extract_job.run(config, Progress())
    return FaceSet(out)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing a run takes longer than training it here; ``training/test_results.py`` looks at it."""
    monkeypatch.setattr(train_results, "_draw", lambda *_: None)


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[..., Path]:
    """Write an H.264 clip of moving stripes; no face in it."""

    def write(
        name: str = "clip.mp4",
        frames: int = 20,
        width: int = 64,
        height: int = 48,
        fps: int = 10,
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.thread_count = 1
            for number in range(frames):
                columns = (np.arange(width) * 4 + number * 11) % 256
                picture = np.broadcast_to(columns[None, :, None], (height, width, 3))
                frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of an S3 server of this process, on the loopback address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, bytes], object]]:
    """``put(key, data)`` into an empty bucket called ``clips``."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": object_store,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="clips")
    yield lambda key, data: client.put_object(Bucket="clips", Key=key, Body=data)
    for item in client.list_objects_v2(Bucket="clips").get("Contents", []):
        client.delete_object(Bucket="clips", Key=item["Key"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten files that are no videos, each with a content and a size of its own."""
    folder = tmp_path / "src"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.mp4").write_text("x" * (number + 30))
    return folder
