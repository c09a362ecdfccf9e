"""Every verb's output on object storage: the same rows, weights and refusals as on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.verdicts import make_model

import dfscan
from dfscan import storage
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.train import InputConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import OutputError
from dfscan.models.modelfile import load_model
from dfscan.pipeline.sandbox.process import end_child
from dfscan.training import results as train_results
from dfscan.training.loop import _Run

Put = Callable[[str, bytes], object]


@pytest.fixture(autouse=True)
def new_child(bucket: Put) -> Iterator[None]:
    """No decoding process keeps the address of this test's object store."""
    end_child()
    yield
    end_child()


def rows(folder: storage.StoragePath, leave_out: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Of all Parquet files of a folder, without what differs from run to run."""
    found = [
        {k: v for k, v in row.items() if k not in leave_out}
        for _, table in storage.read_tables(folder)
        for row in table.to_pylist()
    ]
    return sorted(found, key=lambda r: (r["video_id"], r.get("frame_index"), r.get("face_index")))


def test_a_dataset_is_the_one_on_disk_and_a_second_run_finds_all_of_it(
    corpus: Corpus, faceset: FaceSet
) -> None:
    source = [str(p) for p in corpus.parts]
    where: dict[str, Any] = {"out": "s3://clips/sets/faces", "inline": True, "stride": 3}
    first = dfscan.extract(*source[:1], **where)
    assert (first.new, first.out) == (6, "s3://clips/sets/faces")  # type: ignore[union-attr]
    second = dfscan.extract(*source, **where)
    assert (second.new, second.videos) == (6, 12)  # type: ignore[union-attr]
    assert dfscan.extract(*source, **where).new == 0  # type: ignore[union-attr]
    made = FaceSet(storage.as_path("s3://clips/sets/faces"))
    assert rows(made.faces) == rows(faceset.faces)
    varying = ("elapsed_s", "committed_at", "unit", "version")
    assert rows(made.videos, varying) == rows(faceset.videos, varying)
    assert made.header()["finished"]
    with pytest.raises(OutputError, match=r"another configuration .*stride"):
        dfscan.extract(*source, **where | {"stride": 4})
    facts = dfscan.inspect("s3://clips/sets/faces")
    assert (facts.kind, facts.facts["videos"]) == ("face dataset", 12)
    name = rows(made.videos)[0]["video_id"]
    assert dfscan.purge("s3://clips/sets/faces", name).rows == 1
    assert name not in made.ids()


class Killed(BaseException):
    """As good as a kill: nothing of dfscan's catches it."""


def test_training_goes_on_from_its_checkpoint_and_ends_with_the_same_weights(
    faceset: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_results, "_draw", lambda *_: None)
    common: dict[str, Any] = {
        "inline": True, "workers": 1, "epochs": 3, "batch_size": 8, "val_fraction": 0.34,
        "input": InputConfig(size=32), "backbone": "meso4",
    }  # fmt: skip
    undisturbed = dfscan.train(str(faceset.root), out=str(tmp_path / "run"), **common)
    epoch = _Run.epoch

    def dying(self: _Run, number: int) -> dict[str, Any]:
        if number == 2:
            raise Killed
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "epoch", dying)
        with pytest.raises(Killed):
            dfscan.train(str(faceset.root), out="s3://clips/runs/one", **common)
    run = storage.as_path("s3://clips/runs/one")
    assert storage.exists(run / "checkpoint.safetensors")
    begun: list[int] = []

    def counting(self: _Run, number: int) -> dict[str, Any]:
        begun.append(number)
        return epoch(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "epoch", counting)
        result = dfscan.train(str(faceset.root), out="s3://clips/runs/one", **common)
    assert begun == [2]
    assert result.model == "s3://clips/runs/one/model.safetensors"
    ours = load_model(storage.as_path(result.model)).network.state_dict()
    theirs = load_model(Path(undisturbed.model)).network.state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert not storage.exists(run / "checkpoint.safetensors")
    assert len(storage.in_folder(run / "tensorboard", "events.*")) == 3  # one an epoch
    with pytest.raises(OutputError, match="s3://clips/runs/one holds a run already"):
        dfscan.train(str(faceset.root), out="s3://clips/runs/one", **common)


def test_verdicts_are_those_on_disk_with_their_history(corpus: Corpus, tmp_path: Path) -> None:
    here = str(make_model(tmp_path / "model.safetensors"))
    storage.commit_bytes("s3://clips/m/model.safetensors", storage.read_bytes(here))
    common: dict[str, Any] = {"inline": True, "frames": 4, "threshold": 0.5}
    out = "s3://clips/night/verdicts.parquet"
    dfscan.score(str(corpus.test), model=here, out=str(tmp_path / "v.parquet"), **common)
    result = dfscan.score(str(corpus.test), model="s3://clips/m", out=out, **common)
    varying = ("scanned_at", "elapsed_s")

    def verdicts(path: storage.PathLike) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in row.items() if k not in varying}
            for row in storage.read_table(path).to_pylist()
        ]

    assert result.new == result.videos > 0  # type: ignore[union-attr]
    assert verdicts(out) == verdicts(tmp_path / "v.parquet")
    assert not storage.exists(out + ".parts")
    assert dfscan.score(str(corpus.test), model="s3://clips/m", out=out, **common).new == 0  # type: ignore[union-attr]
    again = dfscan.score(
        str(corpus.test), model=here, out=out, stale="rescan", **common | {"threshold": 0.4}
    )
    assert again.new == result.videos  # type: ignore[union-attr]
    [(_, replaced)] = storage.read_tables(out + ".history")
    assert replaced.num_rows == result.videos
    verified = dfscan.verify(out, model=here, inline=True)
    assert verified.counts["agrees"] == result.videos
    labels = tmp_path / "labels.csv"
    names = [row["video_id"] for row in verdicts(out)]
    lines = [f"{name},{('REAL', 'FAKE')[i % 2]}" for i, name in enumerate(names)]
    labels.write_text("\n".join(["video_id,label", *lines]) + "\n")
    dfscan.evaluate(out, labels=str(labels), out="s3://clips/night/evaluation")
    for path in (out, "s3://clips/night/evaluation"):
        page = dfscan.report(path).out
        assert dfscan.report(path).out == page  # a page about the same thing is replaced
        assert storage.read_start(page, 15) == b"<!DOCTYPE html>"
    storage.commit_bytes("s3://clips/other/report.html", storage.read_bytes(page))
    with pytest.raises(OutputError, match=r"is a page about '\.', not about 's3://clips/night/ver"):
        dfscan.report(out, out="s3://clips/other/report.html")
