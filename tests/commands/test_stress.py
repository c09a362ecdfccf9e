"""``dfscan stress`` from source to table: resumable, honest about what was scored."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from support.verdicts import apart, make_model

from dfscan import storage
from dfscan.commands import stress as stress_job
from dfscan.commands import verify as verify_job
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.commands.stress import StressResult, as_csv, choose
from dfscan.config.loading import build
from dfscan.config.stress import StressConfig
from dfscan.corpora import list_videos
from dfscan.errors import ConfigError, OutputError
from dfscan.models.modelfile import load_model, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.records import VideoRef
from dfscan.verdicts.provenance import records

TWO = ("half", "crf40")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors", detector="none")


def config(source: Any, model: Path, out: Path, **changes: Any) -> StressConfig:
    values = {"source": str(source), "model": str(model), "out": str(out), "inline": True}
    return build(
        StressConfig, {**values, "frames": 3, "conditions": TWO, "isolate": False} | changes
    )


def stress(source: Any, model: Path, out: Path, **changes: Any) -> StressResult:
    return stress_job.run(config(source, model, out, **changes), Progress())


def verdicts(out: Path, name: str) -> dict[str, dict[str, Any]]:
    table = storage.read_table(out / "verdicts" / f"{name}.parquet")
    return {
        row["video_id"]: row for row in table.drop_columns(["scanned_at", "elapsed_s"]).to_pylist()
    }


@pytest.fixture(scope="module")
def done(corpus: Corpus, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test clips under two conditions. Not to be written to."""
    out = tmp_path_factory.mktemp("stress") / "out"
    stress(corpus.test, model, out)
    return out


def test_what_it_writes(done: Path, corpus: Corpus, model: Path) -> None:
    told = json.loads((done / "stress.json").read_text())
    assert told["schema_version"] == 1
    assert told["finished"] is True
    assert told["models"] == {storage.sha256(model.read_bytes()): str(model)}
    assert told["configuration"]["conditions"] == ["original", *TWO]
    rows = told["rows"]
    assert [r["condition"] for r in rows] == ["original", *TWO]
    assert all(r["videos"] == r["compared"] == r["auc_videos"] == 4 for r in rows)
    assert all(0 <= r["auc"] <= 1 for r in rows)
    assert rows[0]["flipped"] == rows[0]["score_change_mean"] == 0 != rows[2]["score_change_mean"]
    with (done / "stress.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [r["condition"] for r in table] == ["original", *TWO]
    assert float(table[2]["auc"]) == rows[2]["auc"]
    assert {"auc_low", "auc_high"} <= table[0].keys()
    with Image.open(done / "stress.png") as plot:
        assert plot.width > 1000
    assert sorted(p.name for p in done.iterdir()) == [
        "stress.csv",
        "stress.json",
        "stress.png",
        "verdicts",
    ]


def test_verdicts_say_what_was_scored(done: Path, model: Path) -> None:
    original, half = verdicts(done, "original"), verdicts(done, "half")
    assert original.keys() == half.keys()
    for name, row in half.items():
        before = original[name]
        assert (row["uri"], row["content_sha256"], row["version"], row["label"]) == (
            before["uri"], before["content_sha256"], before["version"], before["label"],
        )  # fmt: skip
        assert (row["width"], row["height"]) == (before["width"] // 2, before["height"] // 2)
        assert row["custody"]["config_hash"] != before["custody"]["config_hash"]
        times = [[f["pts_s"] for f in r["frames"]] for r in (row, before)]
        assert times[0] == pytest.approx(times[1], abs=1e-3)
    (record,) = records(done / "verdicts" / "half.parquet").values()
    assert record["altered"].startswith("half: half as wide and high; libx264 preset=medium crf=18")


def test_verify_takes_no_condition_for_the_original(done: Path, model: Path) -> None:
    outcomes = {}
    for name in ("original", "half"):
        given = verify_job.build(
            verify_job.VerifyConfig,
            {
                "verdicts": str(done / "verdicts" / f"{name}.parquet"),
                "model": str(model),
                "inline": True,
            },
        )
        outcomes[name] = verify_job.run(given, Progress())
    assert outcomes["original"].counts["agrees"] == 4
    assert outcomes["half"].counts == {"agrees": 0, "differs": 0, "unchecked": 4}
    assert all("under the condition half: " in (c.reason or "") for c in outcomes["half"].videos)


@pytest.mark.parametrize("point", ["commit.begun@half#2=kill", "commit.begun@verdicts#2=kill"])
def test_killed_and_continued_gives_the_same_rows(
    point: str, done: Path, corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    values = config(corpus.test, model, out, unit_size=2, conditions="half").model_dump(
        mode="json", exclude_unset=True
    )
    code = (
        "import json, sys; from dfscan.api import stress; "
        "v = json.loads(sys.argv[1]); stress(v.pop('model')[0], *v.pop('source'), **v)"
    )
    died = subprocess.run(
        [sys.executable, "-c", code, json.dumps(values)],
        env={**os.environ, "DFSCAN_FAULTS": point, "DFSCAN_FAULTS_DIR": str(tmp_path)},
        check=False,
    )
    assert died.returncode == -9
    assert json.loads((out / "stress.json").read_text())["finished"] is False
    (out / ".altered" / "dead").mkdir(parents=True, exist_ok=True)
    (out / ".altered" / "dead" / "left.mp4").touch()
    stress(corpus.test, model, out, unit_size=2, conditions="half")
    assert not (out / ".altered").exists()
    assert not (out / "parts").exists()
    for name in ("original", "half"):
        assert apart(verdicts(out, name), verdicts(done, name)) == []


def test_once_done_nothing_is_looked_at_again(
    done: Path, corpus: Corpus, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((done / "stress.json").read_text())
    monkeypatch.setattr(stress_job, "run_units", None)
    stress(corpus.test, model, done)
    assert json.loads((done / "stress.json").read_text()) == before


def test_another_configuration_is_refused_and_says_what_differs(
    done: Path, corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    for changes, named in (
        ({"frames": 4}, "recipe.sampling.frames: 3 → 4"),
        ({"conditions": ("half",)}, "conditions"),
        ({"sample": 2}, "sample: null → 2"),
        ({"threshold": 0.9}, "threshold: 0.5 → 0.9"),
    ):
        with pytest.raises(OutputError, match=named):
            stress(corpus.test, model, done, **changes)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(OutputError, match=r"holds no stress\.json"):
        stress(corpus.test, model, tmp_path / "mine")
    with storage.Lock(done / ".dfscan.lock", done), pytest.raises(OutputError, match="in use"):
        stress(corpus.test, model, done)
    with pytest.raises(ConfigError, match="'crf41'; did you mean 'crf40'"):
        stress(corpus.test, model, tmp_path / "out", conditions="crf41")


def test_a_run_that_is_continued_is_not_finished_until_it_is(
    done: Path, corpus: Corpus, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stress_job._Run, "work", die)
    with pytest.raises(KeyboardInterrupt):
        stress(corpus.test, model, out)
    assert json.loads((out / "stress.json").read_text())["finished"] is False


def test_the_aggregation_that_is_asked_for_finds_its_own_calibration(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/clip.mp4").parent
    loaded = load_model(model)
    usual = loaded.header.calibration
    assert usual is not None
    other = usual.model_copy(update={"aggregation": "confident", "offset": 40.0})
    both = tmp_path / "both.safetensors"
    save_model(both, loaded.network, loaded.header.model_copy(update={"calibrations": (other,)}))
    stress(source, both, tmp_path / "a", conditions="crf40", aggregation="confident")
    row = verdicts(tmp_path / "a", "crf40")["src/clip.mp4"]
    assert row["calibrated"]
    assert row["p_fake"] > 0.999
    result = stress(source, model, tmp_path / "b", conditions="crf40", aggregation="confident")
    assert any("the model is not calibrated for aggregation confident:" in n for n in result.notes)
    with pytest.raises(OutputError, match="aggregation"):
        stress(source, model, tmp_path / "b", conditions="crf40")


def test_a_condition_under_which_too_many_fail_is_told_by_the_exit_code(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_clip("src/clip.mp4").parent
    for number in range(3):
        Image.linear_gradient("L").convert("RGB").save(source / f"{number}.png")
    monkeypatch.setenv("DFSCAN_FAULTS", "child.alter@clip=raise")
    result = stress(source, model, tmp_path / "a", conditions="fps15", max_failed=0.5)
    assert [r["failed"] for r in result.rows] == [0, 1]  # of the one that it applies to
    assert result.exit_code == 3
    monkeypatch.delenv("DFSCAN_FAULTS")
    again = stress(source, model, tmp_path / "b", conditions="fps15", max_failed=0.5)
    assert (again.rows[1]["not_applicable"], again.exit_code) == (3, 0)


def test_labels_may_come_later(done: Path, corpus: Corpus, model: Path, tmp_path: Path) -> None:
    flat = tmp_path / "clips"
    flat.mkdir()
    for number, ref in enumerate(list_videos([str(corpus.test)]).videos):
        (flat / f"{number}.mp4").write_bytes(storage.read_bytes(ref.uri))
    out = tmp_path / "out"
    unknown = stress(flat, model, out, conditions="crf40", layout="flat")
    assert [r["auc"] for r in unknown.rows] == [None, None]
    assert any("no label" in note for note in unknown.notes)
    (tmp_path / "labels.csv").write_text("filename,label\n0.mp4,REAL\n1.mp4,FAKE\n2.mp4,REAL\n")
    known = stress(
        flat, model, out, conditions="crf40", layout="flat", labels=str(tmp_path / "labels.csv")
    )
    assert [r["auc_videos"] for r in known.rows] == [3, 3]
    assert None not in [r["auc"] for r in known.rows]
    assert [r["score_change_mean"] for r in known.rows] == [
        r["score_change_mean"] for r in unknown.rows
    ]
    assert verdicts(out, "crf40")["clips/1.mp4"]["label"] == "FAKE"
    (tmp_path / "others.csv").write_text("filename,label\nx.mp4,REAL\n")
    with pytest.raises(ConfigError, match="names none of the 4 videos"):
        stress(
            flat, model, out, conditions="crf40", layout="flat", labels=str(tmp_path / "others.csv")
        )


def test_broken_files_and_pictures(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/clip.mp4").parent
    (source / "text.mp4").write_text("no video")
    Image.linear_gradient("L").convert("RGB").save(source / "picture.png")
    result = stress(source, model, tmp_path / "out", conditions="fps15,mirrored")
    assert result.exit_code == 3  # one of three originals failed
    fps, mirrored = result.rows[1:]
    assert (fps["videos"], fps["not_applicable"], fps["failed"]) == (2, 1, 1)
    assert (mirrored["videos"], mirrored["not_applicable"], mirrored["failed"]) == (3, 0, 1)
    assert any(note.startswith("1 picture(s): fps15") for note in result.notes)
    row = verdicts(tmp_path / "out", "fps15")["src/text.mp4"]
    assert (row["status"], row["verdict"]) == ("not_video", None)


def test_a_symmetric_picture_is_stable_when_mirrored(
    corpus: Corpus, model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    half = Image.effect_noise((64, 128), 80).convert("RGB")
    both = Image.new("RGB", (128, 128))
    both.paste(half, (0, 0))
    both.paste(ImageOps.mirror(half), (64, 0))
    both.save(source / "symmetric.png")
    half.resize((128, 128)).save(source / "other.png")
    stress(source, model, tmp_path / "out", conditions="mirrored")
    before, after = (verdicts(tmp_path / "out", n) for n in ("original", "mirrored"))
    for name, same in (("src/symmetric.png", True), ("src/other.png", False)):
        assert (before[name]["score_raw"] == after[name]["score_raw"]) is same


def test_an_uncalibrated_model_says_that_nothing_can_flip(
    model: Path, tmp_path: Path, write_clip: Callable[..., Path]
) -> None:
    source = write_clip("src/clip.mp4").parent
    loaded = load_model(model)
    bare = tmp_path / "bare.safetensors"
    save_model(bare, loaded.network, loaded.header.model_copy(update={"calibration": None}))
    result = stress(source, bare, tmp_path / "a", conditions="crf40")
    assert any("not calibrated: every verdict is UNCERTAIN" in note for note in result.notes)
    assert result.rows[1]["flipped"] == 0
    assert verdicts(tmp_path / "a", "crf40")["src/clip.mp4"]["verdict"] == "UNCERTAIN"
    forced = stress(source, bare, tmp_path / "b", conditions="crf40", threshold=0.0)
    assert not any("calibrated" in note for note in forced.notes)
    assert verdicts(tmp_path / "b", "crf40")["src/clip.mp4"]["reason"] != "model_uncalibrated"


def refs(*families: int) -> tuple[list[VideoRef], dict[str, str]]:
    blank = VideoRef("", "", "", None, None, "", 0, "")
    together = {f"{f}/{n}": str(f) for f, size in enumerate(families) for n in range(size)}
    return [replace(blank, video_id=name) for name in together], together


def test_a_sample_keeps_families_together() -> None:
    videos, together = refs(2, 2, 2, 2, 2)
    for seed in range(5):
        chosen = [v.video_id for v in choose(videos, together, 4, seed)]
        assert len(chosen) == 4
        assert len({together[v] for v in chosen}) == 2
    seeds = {tuple(v.video_id for v in choose(videos, together, 4, seed)) for seed in range(9)}
    assert len(seeds) > 1
    assert choose(videos[::-1], together, 4, 1) == choose(videos, together, 4, 1)
    assert len(choose(*refs(5, 5), 3, 0)) == 3  # none fits whole
    assert len(choose(videos, together, 99, 0)) == 10


def test_lists_stay_out_of_the_table() -> None:
    rows = [{"condition": "a,b", "auc_interval": None, "flipped_videos": ["x"], "auc": 0.5}]
    assert as_csv(rows) == 'condition,auc_low,auc_high,auc\n"a,b",,,0.5\n'
