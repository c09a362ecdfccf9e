"""On a user's cluster: three nodes on this machine, one of which may lack something."""

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from support.verdicts import make_model

import dfscan
from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.commands import train as train_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.extract import ExtractConfig
from dfscan.config.train import InputConfig, TrainConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ClusterError, ConfigError
from dfscan.execution import cluster as nodes
from dfscan.execution.cluster import DECODING_BYTES, NodeRequirements
from dfscan.execution.executor import ray_session, run_units
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.work_units import Unit, UnitResult, make_unit, split_per_video
from dfscan.schemas.records import VideoRef

# As in test_ray.py: Ray's own modules warn about themselves.
pytestmark = [
    pytest.mark.filterwarnings("default:::ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GIB = 1 << 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and two nodes of one; the second has room for one decoding process."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    started.add_node(num_cpus=1, memory=4 * GIB)
    started.add_node(num_cpus=1, memory=int(1.5 * GIB))
    started.wait_for_nodes()
    yield started
    started.shutdown()


WITHOUT_DFSCAN = """
import importlib.machinery, sys

class OnlyShipped:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "dfscan":
            shipped = [p for p in sys.path if "py_modules_files" in p]
            found = importlib.machinery.PathFinder.find_spec(name, shipped)
            if found is None:
                raise ModuleNotFoundError("No module named 'dfscan'", name="dfscan")
            return found

sys.meta_path.insert(0, OnlyShipped)
"""

WITHOUT_THE_SOURCE = """
import os

stat = os.stat

def sees(path, *rest, **named):
    if str(path).endswith("unseen.mp4"):
        raise FileNotFoundError(2, "No such file or directory")
    return stat(path, *rest, **named)

os.stat = sees
"""


def add_node(cluster: Cluster, folder: Path, lacks: str) -> Any:
    """A node whose Python begins with that code."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(lacks)
    node = cluster.add_node(num_cpus=1, memory=4 * GIB, env_vars={"PYTHONPATH": str(folder)})
    cluster.wait_for_nodes()
    return node


@pytest.fixture(scope="module")
def bare(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A third node, on which dfscan is not installed."""
    node = add_node(cluster, tmp_path_factory.mktemp("bare") / "site", WITHOUT_DFSCAN)
    yield node
    cluster.remove_node(node)


def config(
    cluster: Cluster, corpus: Corpus, out: storage.PathLike, **changes: Any
) -> ExtractConfig:
    values = {
        "source": tuple(str(p) for p in corpus.parts), "out": str(out), "stride": "3",
        "unit_size": 2, "ray_address": cluster.address,
    }  # fmt: skip
    return ExtractConfig(**(values | changes))


def face_rows(root: storage.StoragePath) -> list[dict[str, Any]]:
    rows = [r for _, t in storage.read_tables(root / "faces") for r in t.to_pylist()]
    return sorted(rows, key=lambda r: (r["video_id"], r["frame_index"], r["face_index"]))


@pytest.mark.slow
def test_a_cluster_writes_what_one_process_writes(
    cluster: Cluster, corpus: Corpus, faceset: FaceSet, tmp_path: Path
) -> None:
    result = extract_job.run(config(cluster, corpus, tmp_path / "faces"), Progress())
    assert result.videos == 12
    assert face_rows(tmp_path / "faces") == face_rows(faceset.root)
    assert not list((tmp_path / "faces").glob(".dfscan-probe*"))


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_nodes_with_its_credentials_write_to_an_object_store(
    cluster: Cluster, corpus: Corpus, faceset: FaceSet
) -> None:
    credentials = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    out = storage.as_path("s3://clips/sets/faces")
    there = config(cluster, corpus, out, runtime_env={"env_vars": credentials})
    assert extract_job.run(there, Progress()).videos == 12
    assert face_rows(out) == face_rows(faceset.root)
    assert "AWS" not in storage.read_text(out / "dataset.json")


@dataclass(frozen=True)
class Sleeping:
    """Keeps its worker busy for a while."""

    folder: Path

    def __call__(self, unit: Unit) -> UnitResult:
        time.sleep(0.2)
        return UnitResult(len(unit.videos), 0)

    def split(self, unit: Unit) -> list[Unit]:
        return split_per_video(unit)

    def record_failure(self, unit: Unit, status: str, reason: str) -> UnitResult:
        raise AssertionError


@pytest.mark.slow
def test_a_node_that_joins_without_the_source_ends_the_run_and_writes_no_rows(
    cluster: Cluster, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    (tmp_path / "unseen.mp4").touch()
    video = VideoRef("a", str(tmp_path / "unseen.mp4"), "p", None, None, "a", 1, "1")
    units = [make_unit([video], str(number)) for number in range(400)]
    wanted = ExtractConfig(ray_address=cluster.address)
    joined: list[Any] = []

    class Joining(Progress):
        done = 0

        def advance(self, count: int, *_: Any) -> None:
            self.done += count
            if self.done == 4:
                joined.append(add_node(cluster, tmp_path / "site", WITHOUT_THE_SOURCE))

    progress, out = Joining(), tmp_path / "out"
    try:
        with (
            storage.Lock(out / ".lock", out) as lock,
            pytest.raises(ClusterError, match=r"no .*unseen\.mp4"),
        ):
            run_units(Sleeping(out), units, wanted, progress, lock.lease)
    finally:
        for node in joined:
            cluster.remove_node(node)
    assert 4 <= progress.done < 400


@pytest.mark.slow
def test_memory_is_reserved_by_what_was_measured(cluster: Cluster) -> None:
    with ray_session(ExtractConfig(ray_address=cluster.address)):
        assert nodes.unit_memory(0, gpus=False) == DECODING_BYTES
        assert nodes.unit_memory(3, gpus=False) == 3 * DECODING_BYTES
        assert nodes.unit_memory(99, gpus=False) == 4 * GIB  # what the largest node has
        assert nodes.room_for(DECODING_BYTES) == 2
        assert nodes.room_for(2 * DECODING_BYTES) == 1


@pytest.mark.slow
def test_a_wrong_runtime_environment_is_a_wrong_configuration(cluster: Cluster) -> None:
    secret = {"env_vars": {"AWS_SECRET_ACCESS_KEY": 7}}
    wanted = ExtractConfig(ray_address=cluster.address, runtime_env=secret)
    with (
        pytest.raises(ConfigError, match="runtime_env: got the keys env_vars"),
        ray_session(wanted),
    ):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_a_node_without_dfscan_is_told_before_any_work(
    cluster: Cluster, corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError) as caught:
        extract_job.run(config(cluster, corpus, tmp_path / "faces"), Progress())
    first, header, here, bad, last = str(caught.value).splitlines()
    assert first == "1 of 3 node(s) of the Ray cluster cannot do this work, and none was begun:"
    assert header.split() == ["node", "dfscan", "python", "ray", "source", "output"]
    assert here.startswith("this machine")
    assert here.split()[2] == dfscan.__version__
    assert bad.split()[2:] == ["not", "installed", *here.split()[3:]]
    assert "at the same paths" in last
    assert not list((tmp_path / "faces" / "videos").glob("*"))
    assert not list((tmp_path / "faces").glob(".dfscan-probe*"))


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_training_asks_the_nodes_as_well(
    cluster: Cluster, faceset: FaceSet, tmp_path: Path
) -> None:
    wanted = TrainConfig(
        faces=(str(faceset.root),), out=str(tmp_path / "run"), ray_address=cluster.address,
        input=InputConfig(size=64),
    )  # fmt: skip
    with pytest.raises(ClusterError, match=r"1 of 3 node\(s\)"):
        train_job.run(wanted, Progress())


@pytest.mark.slow
@pytest.mark.usefixtures("bare")
def test_code_that_is_shipped_need_not_be_installed(
    cluster: Cluster, corpus: Corpus, faceset: FaceSet, tmp_path: Path
) -> None:
    wanted = config(cluster, corpus, tmp_path / "faces", ship_code=True)
    assert extract_job.run(wanted, Progress()).videos == 12
    assert face_rows(tmp_path / "faces") == face_rows(faceset.root)


def test_what_a_node_lacks(tmp_path: Path) -> None:
    (tmp_path / "probe").touch()
    look = nodes._looker(patience_s=0)
    fine = look((str(tmp_path), str(tmp_path / "probe")), str(tmp_path / "probe"))
    assert not NodeRequirements().differ(fine)
    assert [p.name for p in tmp_path.iterdir()] == ["probe"]
    for changes in (
        {"dfscan": "0.0.9"}, {"python": "3.10.2"}, {"ray": "2.9.0"},
        look((str(tmp_path / "gone.zip"),), None), look((), "/proc/self/status"),
        look((), str(tmp_path / "elsewhere" / "probe")),
    ):  # fmt: skip
        assert NodeRequirements().differ({**fine, **changes})
    assert not NodeRequirements().differ({**fine, "python": fine["python"] + "1"})


def test_a_message_names_ten_nodes() -> None:
    bad = {**NodeRequirements().versions, "node": "n", "source": "no /x", "output": "seen"}
    lines = nodes._told([bad] * 12, 40, NodeRequirements()).splitlines()
    assert lines[0].startswith("12 of 40 node(s)")
    assert sum(line.startswith("n ") for line in lines) == 10
    assert lines[-2] == "… and 2 more"
    assert "TMPDIR" not in lines[-1]


def test_a_temporary_output_that_a_node_does_not_see_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    temporary, own = tmp_path / "dfscan-verify-x", tmp_path.parent / "out"
    bad = {
        **NodeRequirements().versions,
        "node": "n",
        "source": "seen",
        "output": f"no {temporary}",
    }
    said = f"a temporary folder in {tmp_path}: set TMPDIR to a folder that all nodes share"
    assert nodes._told([bad], 3, NodeRequirements((), str(temporary))).endswith(said)
    for answer, folder in ((bad, own), ({**bad, "source": "no /x", "output": "seen"}, temporary)):
        assert "TMPDIR" not in nodes._told([answer], 3, NodeRequirements((), str(folder)))


@pytest.mark.slow
def test_verifying_asks_the_nodes_for_its_folder_and_its_model(
    cluster: Cluster, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model.safetensors", detector="none")
    told = {"model": str(model), "frames": 2, "isolate": False}
    out = str(tmp_path / "v.parquet")
    dfscan.score(str(corpus.test), out=out, inline=True, **told)
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "shared"))
    asked: list[NodeRequirements] = []
    ask = nodes._ask

    def unseen(
        config: Any, requirements: NodeRequirements, probe: str | None
    ) -> list[dict[str, str]]:
        asked.append(requirements)
        return [
            {**a, "output": f"no {requirements.folder}"} for a in ask(config, requirements, probe)
        ]

    monkeypatch.setattr(nodes, "_ask", unseen)
    with pytest.raises(ClusterError, match=r"set TMPDIR to a folder that all nodes share$"):
        dfscan.verify(out, model=str(model), ray_address=cluster.address)
    assert str(model) in asked[0].files
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.safetensors",
        "shared",
        "v.parquet",
    ]
    assert list((tmp_path / "shared").iterdir()) == []
