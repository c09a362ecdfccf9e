"""Break runs on purpose, continue them, and compare with a run that nothing disturbed.

    python tests/chaos/campaign.py --count 300 --seed 0

A disturbance is SIGKILL to the driver, to a worker, to the decoding child or to a whole node, at a
named step of the commit or at a random moment. Afterwards the same command runs until it is done,
and the dataset must equal the undisturbed one row for row (times and unit names aside). Some of the
datasets lie on an object store: a server of this process, on the loopback address.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dfscan import storage
from dfscan.commands.quickstart.synthetic import CorpusSpec, make_corpus
from dfscan.datasets.face_dataset import FaceSet

LOST_S = 60.0
"""A killed node may cost so many seconds: until it is missed, until another is up and its worker has
loaded, and for the unit that is done again."""

MARK = "DFSCAN_CHAOS"
PATIENCE_S = 240.0

STEPS = (
    "commit.begun@faces", "commit.written@faces", "commit.synced@faces", "commit.renamed@faces",
    "commit.begun@videos", "commit.written@videos", "commit.synced@videos",
    "commit.renamed@videos", "commit.renamed@run", "worker.unit", "reconcile.file",
    "rewrite.faces", "rewrite.videos", "compact.faces", "compact.videos", "compact.removing",
    "finish",
)  # fmt: skip
"""Every step at which the process that gets there is killed; the last part names the folder."""


LOOKS = {
    "none": ["--detector", "none"],
    "paired": ["--detector", "none", "--boxes-from", "original"],
    "mtcnn": ["--detector", "mtcnn"],
}
"""Ways to look at the videos; most runs take them whole, which starts three seconds sooner."""


class BrokenError(AssertionError):
    """The dataset is not what an undisturbed run leaves."""


@dataclass
class Scene:
    """A source, the command that is disturbed, and what it leaves when nothing disturbs it.

    ``outputs``: where the disturbed runs write, if not to the folder.
    """

    folder: Path
    sources: list[str]
    outputs: storage.StoragePath | None = None
    expected: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def command(self, out: storage.StoragePath, detector: str, *more: str) -> list[str]:
        """The command line of a run."""
        return [
            sys.executable, "-m", "dfscan", "extract", *self.sources, "--out", str(out),
            "--stride", "4", *LOOKS[detector], "--set", "extract.unit_size=2",
            "--max-failed", "1", "--quiet", *more,
        ]  # fmt: skip

    def wanted(self, detector: str) -> Any:
        """The rows of an undisturbed run."""
        if detector not in self.expected:
            out = self.folder / f"undisturbed-{detector}"
            started = time.monotonic()
            subprocess.run(self.command(out, detector, "--inline"), check=True, timeout=PATIENCE_S,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            self.seconds[detector] = time.monotonic() - started
            self.expected[detector] = rows(out)
        return self.expected[detector]


def make_scene(folder: Path) -> Scene:
    """Some twenty short clips in two DFDC parts, and files that are none."""
    spec = CorpusSpec(people=8, test_people=2, frames=12, size=320)
    corpus = make_corpus(folder / "corpus", spec)
    broken = folder / "broken"
    broken.mkdir()
    (broken / "text.mp4").write_text("no video")
    (broken / "empty.mp4").touch()
    loose = folder / "loose"
    loose.mkdir()
    with zipfile.ZipFile(corpus.test) as archive:
        for number, name in enumerate(sorted(archive.namelist())[:3]):
            (loose / f"{number}.mp4").write_bytes(archive.read(name))
    return Scene(folder, [*map(str, corpus.parts), str(broken), str(loose)])


def rows(out: storage.StoragePath) -> tuple[list[Any], list[Any]]:
    """Everything a dataset holds that does not depend on when and by whom it was made."""
    target = FaceSet(out)
    if not target.header().get("finished"):
        raise BrokenError("dataset.json says that the run is not finished")
    varying = {"elapsed_s", "committed_at", "unit", "version"}
    videos = [
        {k: v for k, v in row.items() if k not in varying}
        for _, table in storage.read_tables(target.videos)
        for row in table.to_pylist()
    ]
    faces = [row for _, table in storage.read_tables(target.faces) for row in table.to_pylist()]
    return (
        sorted(videos, key=lambda r: r["video_id"]),
        sorted(faces, key=lambda r: (r["video_id"], r["frame_index"], r["face_index"])),
    )


# ---------------------------------------------------------------- disturbing


@dataclass(frozen=True)
class Disturbance:
    """What is done to a run; ``kills`` counts what was really hit."""

    kind: str
    mode: str
    detector: str
    plan: str


def disturb(scene: Scene, seed: int, kind: str | None = None) -> tuple[Disturbance, int]:
    """One disturbed run and its continuation; returns what was done and how many were killed.

    :raises BrokenError: the result is not that of an undisturbed run.
    """
    chance = random.Random(seed)
    kind = (
        kind or chance.choices(["step", "change", "driver", "child", "worker"], [4, 3, 3, 3, 2])[0]
    )
    mode = "ray" if kind == "worker" or chance.random() < 0.15 else "inline"
    detector = chance.choices(list(LOOKS), [5, 3, 2])[0]
    wanted = scene.wanted(detector)
    out = (scene.outputs or scene.folder) / f"run-{seed}-{kind}"
    if kind == "change":  # rows are superseded, units rewritten
        subprocess.run(
            scene.command(out, detector, "--inline"), check=True, stdout=subprocess.DEVNULL
        )
        for clip in (scene.folder / "loose").iterdir():
            os.utime(clip)
    if kind in {"step", "change"}:
        plan = _plan(chance, 2 if kind == "change" else 8)
        kills = _run_with_fault(scene, out, detector, mode, plan)
    else:
        plan = f"{kind} at random"
        kills = _run_with_kills(scene, out, detector, mode, kind, chance)
    if chance.random() < 0.3:  # the run that continues is not spared either
        again = _plan(chance, 2)
        kills += _run_with_fault(scene, out, detector, "inline", again)
        plan += f", then {again}"
    what = Disturbance(kind, mode, detector, plan)
    _continue(scene, out, detector, mode)
    if rows(out) != wanted:
        raise BrokenError(
            f"{what}, seed {seed}: {out} differs from {scene.folder}/undisturbed-{detector}"
        )
    return what, kills


def _plan(chance: random.Random, commits: int) -> str:
    """A step, and the how many-th time a process that gets there is killed."""
    step = chance.choice(STEPS)
    turns = commits if step.startswith(("commit", "worker")) and "@run" not in step else 1
    return f"{step}#{chance.randint(1, turns)}=kill"


def _flags(mode: str) -> list[str]:
    return ["--inline"] if mode == "inline" else ["--workers", "2"]


@contextlib.contextmanager
def _started(
    command: list[str], **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A run in a session of its own; nothing of it is left afterwards."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command, env=os.environ | environment | {MARK: mark}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process, mark
    finally:
        process.kill()
        process.wait()
        for pid in _marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _run_with_fault(
    scene: Scene, out: storage.StoragePath, detector: str, mode: str, plan: str
) -> int:
    folder = Path(tempfile.mkdtemp(prefix=f"{out.name}-faults-", dir=scene.folder))
    environment = {"DFSCAN_FAULTS": plan, "DFSCAN_FAULTS_DIR": str(folder)}
    command = scene.command(out, detector, *_flags(mode))
    with _started(command, **environment) as (process, _):
        process.wait(PATIENCE_S)
    count = int(plan.partition("#")[2].partition("=")[0])
    return int(len(list(folder.iterdir())) >= count)


def _run_with_kills(
    scene: Scene,
    out: storage.StoragePath,
    detector: str,
    mode: str,
    target: str,
    chance: random.Random,
) -> int:
    """Kill a process at a random moment; workers and children up to three times in a run."""
    kills = 0
    with _started(scene.command(out, detector, *_flags(mode))) as (process, mark):
        if target == "driver":
            length = scene.seconds[detector] + (6 if mode == "ray" else 0)
            _wait(process, chance.uniform(0.1, length))
        for _ in range(1 if target == "driver" else 3):
            victims = [process.pid] if target == "driver" else []
            while not victims and process.poll() is None:
                victims = _find(mark, target)
                time.sleep(0.02)
            if target != "driver":
                _wait(process, chance.uniform(0, scene.seconds[detector] / 3))
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    kills += 1
        process.wait(PATIENCE_S)
    return kills


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Let a run go on for so long, if it does."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _continue(scene: Scene, out: storage.StoragePath, detector: str, mode: str) -> None:
    done = subprocess.run(
        scene.command(out, detector, *_flags(mode)), timeout=PATIENCE_S, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise BrokenError(
            f"{out}: the same command ends with {done.returncode}: {done.stderr[-500:]}"
        )


def _marked(mark: str) -> list[int]:
    """Processes of one run: they have its mark in their environment."""
    needle = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if needle in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def _find(mark: str, target: str) -> list[int]:
    """Decoding children or Ray workers of one run."""
    needle = {"child": b"dfscan.pipeline.sandbox.extraction_worker", "worker": b"ray::_work"}[
        target
    ]
    found = []
    for pid in _marked(mark):
        with contextlib.suppress(OSError):
            if needle in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


# ---------------------------------------------------------------- nodes


def kill_nodes(scene: Scene, seed: int, kills: int, detector: str = "none") -> int:
    """A cluster of three nodes on this machine; one dies and is replaced, ``kills`` times.

    :raises BrokenError: the result is not that of an undisturbed run.
    """
    from ray.cluster_utils import Cluster

    chance = random.Random(seed)
    wanted = scene.wanted(detector)
    struck = turn = 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        while struck < kills:
            out = scene.folder / f"nodes-{seed}-{turn}"
            turn += 1
            command = scene.command(out, detector, "--ray-address", cluster.address)
            with _started(command) as (process, _):
                for _ in range(2):
                    _wait(process, chance.uniform(2, 9))
                    if process.poll() is None:
                        cluster.remove_node(nodes.pop(0), allow_graceful=False)
                        struck += 1
                        nodes.append(cluster.add_node(num_cpus=1))
                process.wait(PATIENCE_S)
            _continue(scene, out, detector, "inline")
            if rows(out) != wanted:
                raise BrokenError(f"nodes, seed {seed}: {out} differs from an undisturbed run")
    finally:
        cluster.shutdown()
    return struck


@dataclass(frozen=True)
class Clocked:
    """Two runs of one command on the same nodes: left alone, and with ``kills`` of them killed."""

    clips: int
    kills: int
    undisturbed_s: float
    disturbed_s: float

    @property
    def lost_s(self) -> float:
        """Seconds that one kill cost."""
        return (self.disturbed_s - self.undisturbed_s) / max(1, self.kills)


def kill_by_the_clock(
    scene: Scene, clips: int, every_s: float = 20, gap_s: float = 5, detector: str = "mtcnn"
) -> Clocked:
    """Three nodes on this machine; one is killed every ``every_s`` and replaced after ``gap_s``.

    :raises BrokenError: the run does not end by itself, or not like the undisturbed one, or a kill
        cost more than :data:`LOST_S`.
    """
    from ray.cluster_utils import Cluster

    many = _copies(scene, clips)
    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "num_cpus": 0})
    try:
        nodes = [cluster.add_node(**small) for _ in range(3)]
        cluster.wait_for_nodes()
        times, kills = [], 0
        for name in ("alone", "clock"):
            command = many.command(
                many.folder / f"{name}-{clips}", detector, "--ray-address", cluster.address
            )
            started = time.monotonic()
            with _started(command) as (process, _):
                while name == "clock":
                    _wait(process, every_s)
                    if process.poll() is not None:
                        break
                    cluster.remove_node(nodes.pop(0), allow_graceful=False)
                    kills += 1
                    _wait(process, gap_s)
                    nodes.append(cluster.add_node(**small))
                if process.wait(PATIENCE_S * 4):
                    raise BrokenError(f"{name}: the run ends with {process.returncode}")
            times.append(time.monotonic() - started)
    finally:
        cluster.shutdown()
    if rows(many.folder / f"alone-{clips}") != rows(many.folder / f"clock-{clips}"):
        raise BrokenError(f"nodes by the clock: {many.folder} differs from an undisturbed run")
    found = Clocked(clips, kills, *times)
    if found.lost_s > LOST_S:
        raise BrokenError(f"nodes by the clock: a kill cost {found.lost_s:.0f} s, not {LOST_S:.0f}")
    return found


def _copies(scene: Scene, clips: int) -> Scene:
    """A scene of so many clips, which keeps three nodes busy for some minutes."""
    folder = scene.folder / f"many-{clips}"
    (folder / "clips").mkdir(parents=True)
    few = sorted((scene.folder / "loose").iterdir())
    for number in range(clips):
        (folder / "clips" / f"{number:05d}.mp4").hardlink_to(few[number % len(few)])
    return Scene(folder, [str(folder / "clips")])


def by_the_clock(scene: Scene, clips: int) -> int:
    """Kill nodes by the clock and say what it cost; returns how many."""
    found = kill_by_the_clock(scene, clips)
    print(
        f"{found.clips} clips on three nodes: {found.undisturbed_s:.0f} s undisturbed, "
        f"{found.disturbed_s:.0f} s with {found.kills} nodes killed, one every 20 s and replaced "
        f"after 5: {found.lost_s:.1f} s a kill; the dataset equals the undisturbed one",
        flush=True,
    )
    return found.kills


@contextlib.contextmanager
def object_store() -> Iterator[storage.StoragePath]:
    """A place in a bucket of a server of this process, which its children find as well."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "chaos",
        "AWS_SECRET_ACCESS_KEY": "chaos",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    boto3.client("s3").create_bucket(Bucket="chaos")
    try:
        yield storage.as_path("s3://chaos/runs")
    finally:
        server.stop()


def main() -> None:
    """A campaign of so many kills."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="processes and nodes to kill")
    parser.add_argument("--nodes", type=int, default=12, help="nodes among them")
    parser.add_argument(
        "--clips", type=int, default=600, help="of the run whose nodes are killed by the clock"
    )
    parser.add_argument(
        "--objects", type=int, default=20, help="kills with an object store's output"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dfscan-chaos-") as folder:
        scene = make_scene(Path(folder))
        done["node/ray"] += kill_nodes(scene, options.seed, min(options.nodes, options.count))
        done["node/ray"] += by_the_clock(scene, options.clips) if options.clips else 0
        seed = options.seed
        with object_store() as place:
            there = replace(scene, outputs=place)
            while done["object store"] < options.objects:
                done["object store"] += disturb(there, seed)[1]
                seed += 1
        while sum(done.values()) < options.count:
            what, kills = disturb(scene, seed)
            seed += 1
            done[f"{what.kind}/{what.mode}"] += kills
            minutes = (time.monotonic() - started) / 60
            print(
                f"{sum(done.values()):4d} killed in {seed} runs, {minutes:.1f} min: {what}",
                flush=True,
            )
    summary = ", ".join(f"{n} {kind}" for kind, n in sorted(done.items()))
    print(f"{sum(done.values())} killed ({summary}); every dataset equals the undisturbed one")


if __name__ == "__main__":
    main()
