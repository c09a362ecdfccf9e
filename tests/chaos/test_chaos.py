"""A dozen disturbed runs, a full disk, and two runs on one output. ``make chaos`` is the long one."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from chaos import campaign
from chaos.campaign import Scene, disturb, kill_nodes, make_scene, rows

from dfscan import storage

pytestmark = [
    pytest.mark.filterwarnings("default:::ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("plan", [
    "commit.renamed@faces#2=kill",
    *(pytest.param(plan, marks=pytest.mark.slow) for plan in (
        "commit.written@faces#3=kill", "commit.synced@videos#4=kill",
        "commit.renamed@videos#1=kill", "compact.videos#1=kill", "compact.removing#2=kill",
        "finish#1=kill",
    )),
])  # fmt: skip
def test_a_driver_killed_at_a_step_of_the_commit(scene: Scene, plan: str, tmp_path: Path) -> None:
    out = tmp_path / "run-step"
    assert campaign._run_with_fault(scene, out, "none", "inline", plan) == 1
    campaign._continue(scene, out, "none", "inline")
    assert rows(out) == scene.wanted("none")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("driver", 1), ("driver", 3), ("child", 2)])
def test_a_process_killed_at_a_random_moment(scene: Scene, kind: str, seed: int) -> None:
    disturb(scene, seed, kind)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("step", 7), ("change", 4)])
@pytest.mark.usefixtures("bucket")
def test_a_run_onto_an_object_store_is_killed_and_continued(
    scene: Scene, kind: str, seed: int
) -> None:
    there = replace(scene, outputs=storage.as_path("s3://clips/chaos"))
    _, kills = disturb(there, seed, kind)
    assert kills


@pytest.mark.slow
def test_workers_killed_under_ray(scene: Scene) -> None:
    _, kills = disturb(scene, 5, "worker")
    assert kills


@pytest.mark.slow
def test_a_node_killed_and_replaced(scene: Scene) -> None:
    assert kill_nodes(scene, 0, 1) >= 1


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_space_continues_it(scene: Scene, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    try:
        command = scene.command(disk / "faces", "none", "--inline")
        full = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert full.returncode == 1
        lines = full.stderr.splitlines()
        assert len(lines) == 1
        assert "No space left on device; free space, then run the same command again" in lines[0]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        campaign._continue(scene, disk / "faces", "none", "inline")
        assert rows(disk / "faces") == scene.wanted("none")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_second_run_on_one_output_is_refused_naming_the_first(
    scene: Scene, tmp_path: Path
) -> None:
    out = tmp_path / "faces"
    command = scene.command(out, "none", "--inline")
    with campaign._started(command, DFSCAN_FAULTS="worker.unit#2=sleep") as (first, _):
        until = time.monotonic() + 60
        while not (out / ".dfscan.lock").exists() and time.monotonic() < until:
            time.sleep(0.05)
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert second.returncode == 2
        assert f"host {os.uname().nodename}, pid {first.pid}" in second.stderr
        first.send_signal(signal.SIGKILL)
    campaign._continue(scene, out, "none", "inline")  # a dead owner's lock is no obstacle
    assert rows(out) == scene.wanted("none")
