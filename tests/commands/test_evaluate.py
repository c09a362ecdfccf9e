import json
import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk
from support.faces import face, person, write_faces
from support.verdicts import make_model

import dfscan
from dfscan import storage
from dfscan.cli import main
from dfscan.commands.evaluate import MARKER, ROW_SCHEMA, EvaluateResult
from dfscan.commands.evaluate.face_data import judge_faces, list_faces
from dfscan.commands.quickstart.synthetic import Corpus
from dfscan.config.evaluate import EvaluateConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.errors import ConfigError, OutputError, SourceError
from dfscan.evaluation.summaries import Case
from dfscan.evaluation.verdict_data import read_videos
from dfscan.models.modelfile import load_model, save_model
from dfscan.pipeline.progress import Progress
from dfscan.schemas.recipe import Crop
from dfscan.schemas.records import VERDICT_SCHEMA


def evaluate(path: str, **config: Any) -> EvaluateResult:
    """With few resamples, and a page for which no video is opened."""
    return dfscan.evaluate(path, **{"resamples": 100, "faces": 0, **config})


def row(name: str, label: str | None, p: float | None, **changes: Any) -> dict[str, Any]:
    """A verdict of a calibrated model (p_fake for even odds, map: twice the score, less 1)."""
    values = dict.fromkeys(VERDICT_SCHEMA.names) | {
        "video_id": f"clips/a/{name}.mp4",
        "label": label,
        "status": "ok",
        "look": "full",
        "calibrated": p is not None,
        "width": 1280,
        "height": 720,
        "gone": False,
        "custody": {"config_hash": "c", "models": ["m"]},
    }
    if p is None:
        return values | {"reason": "no_face", "status": "no_face"} | changes
    llr = math.log(p / (1 - p))
    score = (llr + 1) / 2
    return (
        values
        | {
            "verdict": "FAKE" if p >= 0.5 else "REAL",
            "score_raw": score,
            "p_fake": p,
            "llr": llr,
            "threshold": 0.5,
            "face_px": 100.0,
            "tracks": [{"track_id": 0, "faces": 2, "score_raw": score, "p_fake": p}],
            "frames": [
                {"frame_index": i, "pts_s": i / 25, "box": [0, 0, 9, 9], "score_raw": score + d}
                for i, d in enumerate((-1, 1))
            ],
        }
        | changes
    )


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    storage.commit_table(path, pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA))
    return str(path)


def drawn(count: int, seed: int = 0, noise: float = 1.0) -> list[dict[str, Any]]:
    """Verdicts on invented videos; the same videos with other scores for another seed."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        z = (1.0 if i % 2 else -1.0) + noise * rng.normal()
        p = float(1 / (1 + np.exp(-z)))
        about = {"content_sha256": f"{i}", "height": (360, 720, 1080)[i % 3]}
        rows.append(row(f"v{i:04}", "FAKE" if i % 2 else "REAL", p, **about))
    return rows


# By hand: p_fake falls as F F F R F R (F R) R R, with one tie.
FAKES = {"f1": 0.9, "f2": 0.8, "f3": 0.7, "f4": 0.4, "f5": 0.2}
REALS = {"r1": 0.6, "r2": 0.3, "r3": 0.2, "r4": 0.1, "r5": 0.1}


@pytest.fixture
def by_hand(tmp_path: Path) -> str:
    """Ten scored videos, of which f4 and r2 are uncertain, and two without a verdict."""
    doubt = {"verdict": "UNCERTAIN", "reason": "frames_disagree; small_faces (21 pixels)"}
    rows = [row(n, "FAKE", p, **(doubt if n == "f4" else {})) for n, p in FAKES.items()]
    rows += [row(n, "REAL", p, **(doubt if n == "r2" else {})) for n, p in REALS.items()]
    rows += [row("f6", "FAKE", None, status="decode_error", reason="moov atom not found")]
    rows += [row("r6", "REAL", None)]
    return write(tmp_path / "v.parquet", rows)


def test_every_figure_of_ten_videos_by_hand(by_hand: str, tmp_path: Path) -> None:
    found = evaluate(by_hand, out=str(tmp_path / "e")).metrics
    loss = -sum(math.log(p) for p in FAKES.values()) - sum(math.log(1 - p) for p in REALS.values())
    bits = (
        -sum(map(math.log2, FAKES.values())) / 5
        - sum(map(math.log2, (0.4, 0.7, 0.8, 0.9, 0.9))) / 5
    )
    expected = {
        "reals": 5,
        "fakes": 5,
        "auc": (5 + 5 + 5 + 4 + 2.5) / 25,  # reals below each fake, half for the tie
        "average_precision": 0.2 * (1 + 1 + 1 + 4 / 5 + 5 / 8),
        "tpr_at_1pct_fpr": 3 / 5,
        "tpr_at_01pct_fpr": 3 / 5,
        "eer": 0.2,  # between r1 and f4 one of five of either is on the wrong side
        "log_loss": loss / 10,
        # Bins of one video each, but for (f5, r3) and (r4, r5).
        "ece": (0.1 + 0.2 + 0.3 + 0.6 + 0.6 + 0.3 + (1 - 0.4) + 0.2) / 10,
        "cllr": bits / 2,
        # Pooled: r4 r5 | r3 f5 r2 | f4 r1 | f3 f2 f1: shares 0, 1/3, 1/2, 1.
        "cllr_min": ((math.log2(3) + 1) / 5 + (2 * math.log2(1.5) + 1) / 5) / 2,
        # Of the eight that are decided: f1 f2 f3 and r1 are called FAKE.
        "undecided": 2,
        "accuracy": 6 / 8,
        "balanced_accuracy": 3 / 4,
        "precision": 3 / 4,
        "recall": 3 / 4,
        "f1": 3 / 4,
    }
    by_video = found["by_video"]
    assert {name: by_video[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert by_video["confusion"] == {"tn": 3, "fp": 1, "fn": 1, "tp": 3}
    assert found["truth_by_verdict"] == {
        "REAL": {"REAL": 3, "FAKE": 1, "UNCERTAIN": 1, "none": 1},
        "FAKE": {"REAL": 1, "FAKE": 3, "UNCERTAIN": 1, "none": 1},
    }
    assert found["competition"] == {
        "log_loss": pytest.approx((loss + 2 * math.log(2)) / 12, abs=1e-6),
        "filled_in": 2,
        "videos": 12,
    }
    assert found["without_verdict"] == [
        {"status": "decode_error", "reason": "moov atom not found", "videos": 1, "FAKE": 1},
        {"status": "no_face", "reason": "no_face", "videos": 1, "REAL": 1},
    ]
    both = {"status": "ok", "videos": 2, "FAKE": 1, "REAL": 1}
    assert found["uncertain"] == [
        {**both, "reason": "frames_disagree"},
        {**both, "reason": "small_faces"},
    ]


def test_faces_are_mapped_to_probabilities_as_the_tracks_were(by_hand: str, tmp_path: Path) -> None:
    found = evaluate(by_hand, out=str(tmp_path / "e")).metrics["by_frame"]
    # Faces lie 1 to either side of the score, so 2 of the log-odds.
    odds = {n: math.log(p / (1 - p)) for n, p in (FAKES | REALS).items()}
    logits = np.array([z + d for z in odds.values() for d in (-2, 2)])
    fake = np.array([n in FAKES for n in odds for _ in range(2)])
    p = 1 / (1 + np.exp(-logits))
    assert (found["reals"], found["fakes"], found["undecided"]) == (10, 10, 0)
    assert found["log_loss"] == pytest.approx(sk.log_loss(fake, p), abs=1e-5)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(fake, p >= 0.5))


def test_a_threshold_decides_what_was_uncertain_too(by_hand: str, tmp_path: Path) -> None:
    found = evaluate(by_hand, out=str(tmp_path / "e"), threshold=0.4).metrics
    assert found["truth_by_verdict"] == {
        "REAL": {"REAL": 4, "FAKE": 1, "UNCERTAIN": 0, "none": 1},
        "FAKE": {"REAL": 1, "FAKE": 4, "UNCERTAIN": 0, "none": 1},
    }  # f4 lies on the threshold, as far as float32 can tell


def test_figures_equal_scikit_learns_with_ties(tmp_path: Path) -> None:
    rows = [
        row(f"v{i}", r["label"], float(np.clip(round(r["p_fake"], 2), 0.01, 0.99)))
        for i, r in enumerate(drawn(400))
    ]
    path = write(tmp_path / "v.parquet", rows)
    result = evaluate(path, out=str(tmp_path / "e"), resamples=200)
    found = result.metrics["by_video"]
    p = np.array([r["p_fake"] for r in rows])
    fake = np.array([r["label"] == "FAKE" for r in rows])
    assert len(set(p)) < 100
    assert found["auc"] == pytest.approx(sk.roc_auc_score(fake, p))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(fake, p))
    assert found["log_loss"] == pytest.approx(sk.log_loss(fake, p), abs=1e-6)
    assert found["f1"] == pytest.approx(sk.f1_score(fake, p >= 0.5))
    assert found["ece"] is not None
    assert found["intervals"].pop("ece") is None
    for name, (low, high) in found["intervals"].items():
        assert low <= found[name] <= high, name


def labels(path: Path, rows: list[dict[str, Any]]) -> str:
    """A table: the label turned round for v0002, an original each, a manipulation for fakes."""
    lines = ["filename,label,original,manipulation"]
    for i, r in enumerate(rows):
        name = r["video_id"].rsplit("/", 1)[1]
        fake = (r["label"] == "FAKE") != (name == "v0002.mp4")
        original = f"v{i - 1:04}.mp4" if i % 2 else ""
        lines.append(f"{name},{'FAKE' if fake else 'REAL'},{original},{'swap' if fake else ''}")
    storage.commit_bytes(path, "\n".join([*lines, "gone.mp4,FAKE,,swap"]).encode())
    return str(path)


def test_a_table_of_labels_wins_and_groups_fakes_with_originals(tmp_path: Path) -> None:
    rows = drawn(60)
    path, given = write(tmp_path / "v.parquet", rows), labels(tmp_path / "l.csv", rows)
    found = evaluate(
        path, labels=given, by=("manipulation", "part"), out=str(tmp_path / "e")
    ).metrics
    assert found["videos"]["fakes"] == 31
    assert found["videos"]["groups"] == found["by_video"]["bootstrap"]["groups"] == 30
    assert list(found["breakdown"]["manipulation"]) == ["swap", "(none)"]
    assert found["breakdown"]["manipulation"]["swap"]["against"] == "all reals"
    assert found["breakdown"]["part"]["clips/a"]["auc"] == found["by_video"]["auc"]
    assert any("1 label(s)" in note and "name no video" in note for note in found["notes"])
    assert any("1 video(s) have another label" in note for note in found["notes"])
    written = storage.read_table(tmp_path / "e" / "rows.parquet")
    assert written.schema.names == ROW_SCHEMA.names
    assert written.schema.metadata == ROW_SCHEMA.metadata
    second = written.to_pylist()[1]
    assert second["group"] == written.to_pylist()[0]["group"] == "clips/a/v0000.mp4"
    assert second["attributes"] == [{"key": "manipulation", "value": "swap"}]


def test_a_source_says_labels_parts_and_groups(corpus: Corpus, tmp_path: Path) -> None:
    source = corpus.parts[0]
    with ZipFile(source) as part:
        members = part.namelist()
        (metadata,) = (name for name in members if name.endswith("metadata.json"))
        told = json.loads(part.read(metadata))
    clips = sorted(Path(name).name for name in members if name.endswith(".mp4"))
    rows = [row("x", None, 0.3 + 0.01 * i, video_id=f"copy/{c}") for i, c in enumerate(clips)]
    path = write(tmp_path / "v.parquet", rows)
    found = evaluate(path, labels=str(source), out=str(tmp_path / "e")).metrics
    assert found["videos"]["fakes"] == sum(told[clip]["label"] == "FAKE" for clip in clips) > 0
    assert found["videos"]["labelled"] == len(clips)
    assert found["videos"]["groups"] < len(clips)
    written = storage.read_table(tmp_path / "e" / "rows.parquet")
    assert set(written["part"].to_pylist()) == {Path(metadata).parent.name}
    originals = [told[clip]["original"] for clip in clips if told[clip]["label"] == "FAKE"]
    assert all(
        name is None or name.endswith(tuple(originals)) for name in written["original"].to_pylist()
    )


def test_what_figures_are_broken_down_by(tmp_path: Path) -> None:
    rows = drawn(90)
    rows[0] |= {"face_px": 21.0, "tracks": rows[0]["tracks"] * 7}
    rows.append(row("nothing", "FAKE", None, height=None, width=None))
    names = ("resolution", "face_size", "people")
    path = write(tmp_path / "v.parquet", rows)
    found = evaluate(path, by=names, out=str(tmp_path / "e")).metrics["breakdown"]
    assert list(found["resolution"]) == ["360–479p", "720–1079p", "from 1080p", "(none)"]
    assert list(found["face_size"]) == ["below 40 px", "80–159 px", "(none)"]
    assert list(found["people"]) == ["1", "5 or more", "(none)"]
    assert found["resolution"]["(none)"]["truth_by_verdict"]["FAKE"]["none"] == 1
    assert found["people"]["5 or more"]["against"] == "reals alone"
    for values in found.values():
        tables = [v["truth_by_verdict"] for v in values.values()]
        assert sum(n for t in tables for counts in t.values() for n in counts.values()) == 91
    tall = found["resolution"]["360–479p"]
    mine = [r for r in rows if r["height"] == 360]
    expected = sk.roc_auc_score([r["label"] == "FAKE" for r in mine], [r["p_fake"] for r in mine])
    assert tall["auc"] == pytest.approx(expected)
    assert tall["intervals"]["auc"][0] < expected < tall["intervals"]["auc"][1]


def test_an_unknown_name_is_told_with_those_that_exist(tmp_path: Path) -> None:
    path, out = write(tmp_path / "v.parquet", drawn(10)), tmp_path / "e"
    with pytest.raises(ConfigError, match=r"by: got 'manipulation'; allowed: face_size, part, pe"):
        evaluate(path, by=("manipulation",), out=str(out))
    with pytest.raises(ConfigError, match="did you mean 'resolution'"):
        evaluate(path, by="resolutoin", out=str(out))
    assert not out.exists()


def test_two_models_are_compared_on_the_videos_of_both(tmp_path: Path) -> None:
    first, second = drawn(200, noise=0.7), drawn(200, seed=1, noise=2.0)
    second[0] |= row("v0000", "REAL", None)
    del second[1]
    second[-1]["video_id"] = "elsewhere/other name.mp4"  # the same content
    second[-2]["content_sha256"] = "another"
    first[4] |= row("v0004", "REAL", None)
    paths = [write(tmp_path / f"{i}.parquet", rows) for i, rows in enumerate((first, second))]
    result = evaluate(paths[0], against=paths[1], out=str(tmp_path / "e"), resamples=200)
    found = result.metrics["comparison"]
    counts = {n: found[n] for n in ("both", "only_first", "only_second", "neither", "changed")}
    assert counts == {"both": 196, "only_first": 3, "only_second": 1, "neither": 0, "changed": 1}
    difference = found["difference"]
    assert difference["auc"] == pytest.approx(found["first"]["auc"] - found["second"]["auc"])
    low, high = difference["intervals"]["auc"]
    assert 0 < low < difference["auc"] < high
    assert difference["mcnemar"]["rows"] == 196
    assert difference["mcnemar"]["p"] < 0.01
    written = storage.read_table(tmp_path / "e" / "rows.parquet").to_pylist()
    assert written[-1]["other_p_fake"] == pytest.approx(second[-1]["p_fake"])
    assert written[1]["other_p_fake"] is None


def test_verdicts_that_share_no_video_cannot_be_compared(tmp_path: Path) -> None:
    others = [r | {"video_id": f"x{i}", "content_sha256": None} for i, r in enumerate(drawn(4))]
    paths = [write(tmp_path / "a.parquet", drawn(4)), write(tmp_path / "b.parquet", others)]
    with pytest.raises(SourceError, match="a score for none of the labelled videos"):
        evaluate(paths[0], against=paths[1], out=str(tmp_path / "e"))
    with pytest.raises(ConfigError, match="which is evaluated itself"):
        evaluate(paths[0], against=paths[0], out=str(tmp_path / "e"))


def test_an_uncalibrated_model_is_ranked_and_called_so(tmp_path: Path) -> None:
    doubt = {"verdict": "UNCERTAIN", "reason": "model_uncalibrated", "threshold": None}
    rows = [r | doubt | {"calibrated": False, "llr": None} for r in drawn(50)]
    for r in rows:
        r["p_fake"] = 1 / (1 + math.exp(-r["score_raw"]))
    path = write(tmp_path / "v.parquet", rows)
    found = evaluate(path, out=str(tmp_path / "e")).metrics
    assert found["by_video"]["auc"] > 0.8
    assert found["by_video"]["undecided"] == found["by_frame"]["undecided"] / 2 == 50
    assert found["by_video"]["accuracy"] is None
    assert any(
        "50 of the 50 scored videos come from an uncalibrated model" in n for n in found["notes"]
    )


def test_one_class_and_no_score_are_evaluated_as_far_as_can_be(tmp_path: Path) -> None:
    reals = write(tmp_path / "r.parquet", [r for r in drawn(20) if r["label"] == "REAL"])
    found = evaluate(reals, out=str(tmp_path / "r")).metrics
    assert found["by_video"]["auc"] is None
    assert found["by_video"]["confusion"]["fp"] + found["by_video"]["confusion"]["tn"] == 10
    assert any("only REAL" in note for note in found["notes"])
    blank = write(tmp_path / "n.parquet", [row("a", "REAL", None), row("b", "FAKE", None)])
    found = evaluate(blank, out=str(tmp_path / "n"), by=("part",)).metrics
    assert found["competition"]["log_loss"] == pytest.approx(math.log(2))
    assert any("no labelled video has a score" in note for note in found["notes"])
    assert not storage.exists(tmp_path / "n" / "plots" / "roc.png")


def test_without_truth_nothing_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", [r | {"label": None} for r in drawn(4)])
    with pytest.raises(SourceError, match=r"4 videos .* has a label: give --labels"):
        evaluate(path, out=str(tmp_path / "e"))
    storage.commit_bytes(tmp_path / "l.csv", b"filename,label\nq.mp4,REAL\n")
    with pytest.raises(SourceError, match=r"names none of them \(one is 'clips/a/v0000.mp4'\)"):
        evaluate(path, labels=str(tmp_path / "l.csv"), out=str(tmp_path / "e"))
    empty = write(tmp_path / "none.parquet", [])
    with pytest.raises(SourceError, match="holds no verdict"):
        evaluate(empty, out=str(tmp_path / "e"))
    assert not (tmp_path / "e").exists()


def test_an_evaluation_is_replaced_only_when_asked(by_hand: str, tmp_path: Path) -> None:
    out = tmp_path / "e"
    evaluate(by_hand, out=str(out))
    names = {p.name for p in out.iterdir()}
    assert names == {MARKER, "metrics.json", "rows.parquet", "plots", "report.html"}
    assert storage.read_json(str(out / MARKER))["finished"]
    with pytest.raises(OutputError, match="holds an evaluation: give another --out, or --overwr"):
        evaluate(by_hand, out=str(out))
    again = evaluate(by_hand, out=str(out), threshold=0.4, overwrite=True)
    assert storage.read_json(str(out / "metrics.json")) == again.metrics
    foreign = tmp_path / "foreign"
    storage.commit_bytes(foreign / "mine.txt", b"")
    with pytest.raises(OutputError, match=r"holds no evaluation\.json"):
        evaluate(by_hand, out=str(foreign), overwrite=True)


def test_an_evaluation_that_died_is_written_again(
    by_hand: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e"

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("dfscan.reports.build.run", die)
        with pytest.raises(RuntimeError):
            evaluate(by_hand, out=str(out))
    assert not storage.read_json(str(out / MARKER))["finished"]
    evaluate(by_hand, out=str(out))
    assert storage.read_json(str(out / MARKER))["finished"]


def test_without_groups_videos_count_by_themselves_and_it_is_told(
    tmp_path: Path, faceset: FaceSet, two_models: tuple[str, str]
) -> None:
    rows = drawn(60)
    path, given = write(tmp_path / "v.parquet", rows), labels(tmp_path / "l.csv", rows)
    said = "no information on which videos share an original"
    own = evaluate(path, out=str(tmp_path / "own")).metrics
    assert [n for n in own["notes"] if n.startswith(said)]
    told = evaluate(path, labels=given, out=str(tmp_path / "told")).metrics
    assert not [n for n in told["notes"] if n.startswith(said)]
    faces = evaluate(str(faceset.root), model=two_models[0], out=str(tmp_path / "faces")).metrics
    assert not [n for n in faces["notes"] if n.startswith(said)]


def test_videos_that_share_a_name_are_told(tmp_path: Path) -> None:
    rows = [*drawn(10), row("v0001", None, 0.4, video_id="elsewhere/v0001.mp4")]
    path, given = write(tmp_path / "v.parquet", rows), labels(tmp_path / "l.csv", rows[:-1])
    found = evaluate(path, labels=given, out=str(tmp_path / "e")).metrics
    assert found["videos"]["ambiguous"] == 2
    (note,) = (n for n in found["notes"] if "share a file name" in n)
    assert note.startswith("2 video(s)")
    assert given in note


def test_scores_are_looked_up_once_for_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    of_all = Case.labelled.fget
    assert of_all is not None

    def labelled(case: Case) -> Any:
        asked.append(1)
        return of_all(case)

    monkeypatch.setattr(Case, "labelled", property(labelled))
    paths = [write(tmp_path / f"{i}.parquet", drawn(200, seed=i)) for i in range(2)]
    evaluate(paths[0], against=paths[1], out=str(tmp_path / "e"))
    assert len(asked) < 50  # and not once a video


def test_brackets_in_a_path_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "v.parquet", drawn(20))
    other = write(tmp_path / "[/odd] [red]name.parquet", drawn(20, seed=1))
    arguments = ["--against", other, "--set", "evaluate.faces=0", "--set", "evaluate.resamples=100"]
    monkeypatch.setattr("sys.argv", ["dfscan", "evaluate", first, *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None)
    assert "[/odd] [red]name.parquet" in " ".join(capsys.readouterr().out.split())


def test_verdicts_of_an_older_writer_are_read(tmp_path: Path) -> None:
    rows = drawn(20)
    rows[3]["custody"] = None
    whole = pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA)
    older = whole.drop_columns(["look", "llr", "face_px", "threshold", "tracks", "label"])
    place = older.schema.get_field_index("custody")
    plain = pa.array([r["custody"] and {"config_hash": "c"} for r in rows])
    storage.commit_table(tmp_path / "v.parquet", older.set_column(place, "custody", plain))
    path, given = str(tmp_path / "v.parquet"), labels(tmp_path / "l.csv", rows)
    found = evaluate(path, labels=given, out=str(tmp_path / "e"), by=("face_size",)).metrics
    assert found["videos"]["scored"] == 20
    assert list(found["breakdown"]["face_size"]) == ["(none)"]
    assert (tmp_path / "e" / "report.html").exists()
    assert dfscan.report(path, faces=0).kind == "verdicts"


def test_a_column_of_labels_named_as_a_computed_one_is_told(tmp_path: Path) -> None:
    rows = drawn(10)
    lines = [f"{r['video_id']},{r['label']},low" for r in rows]
    table = "\n".join(["video_id,label,resolution", *lines])
    storage.commit_bytes(tmp_path / "l.csv", table.encode())
    path = write(tmp_path / "v.parquet", rows)
    found = evaluate(path, labels=str(tmp_path / "l.csv"), by="resolution", out=str(tmp_path / "e"))
    assert "low" not in found.metrics["breakdown"]["resolution"]
    assert any("column resolution is ignored" in n for n in found.metrics["notes"])


def test_reasons_are_counted_whole_and_without_their_numbers(tmp_path: Path) -> None:
    def broken(name: str, reason: str) -> dict[str, Any]:
        return row(name, "REAL", None, status="decode_error", reason=reason)

    rows = [*drawn(4), broken("a", "frame 17: bad; sync"), broken("b", "frame 9: bad; sync")]
    rows += [
        broken(f"x{i}", f"because of {chr(97 + i // 26)}{chr(97 + i % 26)}") for i in range(60)
    ]
    found = evaluate(write(tmp_path / "v.parquet", rows), out=str(tmp_path / "e")).metrics
    told = found["without_verdict"]
    assert (told[0]["reason"], told[0]["videos"]) == ("frame …: bad; sync", 2)
    assert told[-1]["reason"] == "11 rarer reasons"
    assert sum(r["videos"] for r in told) == 62


def test_the_share_of_fakes_is_found_where_every_video_is_surely_fake(tmp_path: Path) -> None:
    prior = math.log(0.2 / 0.8)
    rows = [row(f"v{i}", "FAKE", 0.9992 + i / 1e4) for i in range(5)]
    for r in rows:
        r["llr"] -= prior
    said = read_videos(write(tmp_path / "v.parquet", rows))
    assert said.log_odds - said.llr == pytest.approx([prior] * 5, abs=0.01)


def test_tables_on_a_terminal(
    by_hand: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "sys.argv",
        ["dfscan", "evaluate", by_hand, "--by", "part,people", "--set", "evaluate.faces=0"],
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None)
    shown = capsys.readouterr().out
    assert "12 videos, 12 with a label, in 12 groups" in shown
    for text in ("UNCERTAIN", "Cllr, bits", "2 without a score at 0.5", "by people", "8 of 10"):
        assert text in shown
    assert "no verdict: 1 × decode_error: moov atom not found" in shown


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return tuple(  # type: ignore[return-value]
        str(make_model(folder / f"{seed}.safetensors", seed=seed)) for seed in (0, 1)
    )


def test_faces_get_the_logits_that_scoring_gives(
    faceset: FaceSet, corpus: Corpus, two_models: tuple[str, str], tmp_path: Path
) -> None:
    from dfscan.commands import score as score_job
    from dfscan.config.score import ScoreConfig
    from dfscan.schemas.recipe import Stride

    out = str(tmp_path / "v.parquet")
    sources = tuple(str(p) for p in corpus.parts)
    config = ScoreConfig(
        source=sources, model=two_models[:1], out=out, stride=Stride(real=3, fake=3), inline=True
    )
    score_job.run(config, Progress())
    scored = {r["video_id"]: r for r in storage.read_table(out).to_pylist()}
    given = EvaluateConfig(path=str(faceset.root), model=two_models[0])
    videos = list_faces(given.path)
    (said,), notes = judge_faces(given, videos, two_models[:1], Progress())
    assert not notes
    assert set(videos.ids) == scored.keys()
    for place, name in enumerate(said.ids):
        verdict = scored[name]
        assert said.verdicts[place] == verdict["verdict"]
        assert said.scores[place] == pytest.approx(verdict["score_raw"], abs=1e-3, nan_ok=True)
        mine = said.frames.scores[said.frames.video == place]
        assert mine == pytest.approx([f["score_raw"] for f in verdict["frames"]], abs=1e-3)


def test_faces_of_a_dataset_with_two_models(
    faceset: FaceSet, two_models: tuple[str, str], tmp_path: Path
) -> None:
    result = evaluate(
        str(faceset.root), model=two_models[0], against=two_models[1], by=("resolution",),
        out=str(tmp_path / "e"),
    )  # fmt: skip
    found = result.metrics
    assert found["kind"] == "faces"
    assert found["models"] == [load_model(Path(two_models[0])).sha256]
    assert found["by_frame"]["reals"] + found["by_frame"]["fakes"] == faceset.counts()["faces"]
    assert found["videos"]["groups"] < found["videos"]["rows"]
    assert found["comparison"]["both"] == found["videos"]["scored"]
    with pytest.raises(ConfigError, match="is the same model"):
        evaluate(
            str(faceset.root), model=two_models[0], against=two_models[0], out=str(tmp_path / "f")
        )


def test_faces_need_a_model_and_verdicts_take_none(
    by_hand: str, tmp_path: Path, two_models: tuple[str, str]
) -> None:
    faces = write_faces(tmp_path / "faces", person("a"))
    with pytest.raises(ConfigError, match="is a face dataset: say which model judges it"):
        evaluate(str(faces.root), out=str(tmp_path / "e"))
    with pytest.raises(ConfigError, match="--model judges the faces of a dataset"):
        evaluate(by_hand, model=two_models[0], out=str(tmp_path / "e"))


def test_a_margin_wider_than_stored_is_refused_and_other_differences_told(
    tmp_path: Path, two_models: tuple[str, str]
) -> None:
    faces = write_faces(tmp_path / "faces", person("a"))
    model = load_model(Path(two_models[0]))
    recipe = model.header.recipe
    assert recipe.input is not None
    wide = recipe.model_copy(update={"input": recipe.input.model_copy(update={"margin": 0.9})})
    save_model(
        tmp_path / "wide.safetensors",
        model.network,
        model.header.model_copy(update={"recipe": wide}),
    )
    with pytest.raises(
        ConfigError, match=r"margin of 0.9, .* with a context of 0.6: extract again"
    ):
        evaluate(str(faces.root), model=str(tmp_path / "wide.safetensors"), out=str(tmp_path / "e"))
    other = recipe.model_copy(update={"crop": Crop(quality=70)})
    save_model(
        tmp_path / "other.safetensors",
        model.network,
        model.header.model_copy(update={"recipe": other}),
    )
    found = evaluate(
        str(faces.root), model=str(tmp_path / "other.safetensors"), out=str(tmp_path / "e"),
    ).metrics  # fmt: skip
    assert any("crop.quality: 70 → 95" in note for note in found["notes"])


def test_a_stored_picture_that_does_not_decode_costs_itself_alone(
    tmp_path: Path, two_models: tuple[str, str]
) -> None:
    rows = [*person("a", frames=4), *person("b", frames=4)]
    rows.append(face("c.mp4", "REAL", image=b"no picture"))
    faces = write_faces(tmp_path / "faces", rows)
    found = evaluate(str(faces.root), model=two_models[0], out=str(tmp_path / "e")).metrics
    assert found["by_frame"]["reals"] + found["by_frame"]["fakes"] == 16
    assert found["truth_by_verdict"]["REAL"]["none"] == 1
    assert any("1 stored picture(s) do not decode" in note for note in found["notes"])


def test_counts_of_unlabelled_videos_are_their_own(tmp_path: Path) -> None:
    rows = [*drawn(10), row("u", None, 0.9), row("n", None, None)]
    found = evaluate(write(tmp_path / "v.parquet", rows), out=str(tmp_path / "e"))
    assert found.metrics["truth_by_verdict"]["unlabelled"] == {
        "REAL": 0, "FAKE": 1, "UNCERTAIN": 0, "none": 1,
    }  # fmt: skip
    assert found.metrics["videos"]["unlabelled"] == 2
