"""Time saved by triage on videos that are decided by key frames alone.

    python benchmarks/triage.py FOLDER_OF_CLIPS [--backbone efficientnet_b0] [--repeats 3]

Runs ``dfscan score`` on the same clips without and with ``--triage``, with a model that classifies every key
frame as REAL, so that no video needs the full pass. Runs alternate, in one process and its decoding
children. Core-seconds (user and system time of all of them) are the difference between a third and all
of the copies, which removes start-up: medians of the repeats. Target: at least 8 times fewer.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from making import copied, make_model

FRAMES = 32


def settle_all(path: Path) -> None:
    """Set the model's triage so that no video needs the full pass."""
    from dfscan.models.modelfile import Triage, load_model, save_model
    from dfscan.schemas.recipe import Sampling
    from dfscan.scoring.calibration import Calibration

    key_frames = Sampling(frames=FRAMES, mode="keyframes")
    fitted = Calibration(scale=1.0, offset=0.0, reals=1, fakes=1, sampling=key_frames)
    model = load_model(path)
    triage = Triage(calibration=fitted, deep_if=1.0, flagged=1, recall=0.0)
    save_model(path, model.network, model.header.model_copy(update={"triage": triage}))


def core_seconds() -> float:
    """Core-seconds of this process and its decoding children, running and ended ones."""
    parents = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    children = [int(pid) for path in parents for pid in path.read_text().split()]
    ticks = sum(_times(os.getpid())) + sum(sum(_times(pid)[:2]) for pid in children)
    return ticks / os.sysconf("SC_CLK_TCK")


def _times(pid: int) -> list[int]:
    """utime, stime, cutime, cstime of proc(5)."""
    after_the_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(ticks) for ticks in after_the_name[11:15]]


def run(source: Path, model: Path, triage: bool) -> tuple[float, dict[str, int]]:
    """Core-seconds of one scan, and the number of videos per scoring pass."""
    import pyarrow.parquet as pq

    import dfscan

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/verdicts.parquet"
        began = core_seconds()
        dfscan.score(
            str(source), model=str(model), out=out, frames=FRAMES, inline=True, triage=triage
        )
        seconds = core_seconds() - began
        looks = pq.read_table(out, columns=["look"]).column("look").to_pylist()
    return seconds, {str(look): looks.count(look) for look in set(looks)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="+")
    parser.add_argument("--backbone", default="efficientnet_b0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--copies", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    clips = sorted(c for folder in given.folder for c in Path(folder).rglob("*.mp4"))
    with tempfile.TemporaryDirectory() as folder:
        third = copied(clips, max(1, given.copies // 3), Path(folder) / "third")
        whole = copied(clips, given.copies, Path(folder) / "whole")
        model = Path(folder) / "model.safetensors"
        make_model(given.backbone, given.size, model)
        settle_all(model)
        spent: dict[bool, list[float]] = {False: [], True: []}
        for number in range(given.repeats):
            for triage, seconds in spent.items():
                few, _ = run(third, model, triage)
                many, looks = run(whole, model, triage)
                seconds.append(many - few)
                print(f"# {number + 1} triage {triage}: {seconds[-1]:.2f} s {looks}", flush=True)
    counted = len(clips) * (given.copies - max(1, given.copies // 3))
    full, quick = (statistics.median(spent[way]) / counted for way in (False, True))
    print(
        f"{counted} clips, {given.backbone}, {given.repeats} repeats: full pass {full:.2f}, key frames "
        f"{quick:.3f} core-seconds per clip, {full / quick:.1f} times fewer"
    )


if __name__ == "__main__":
    main()
