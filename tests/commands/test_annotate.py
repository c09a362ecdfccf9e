import dataclasses
import io
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support import verdicts as making_verdicts
from support.sound import sound_of, with_tone

from dfscan import storage
from dfscan.cli.renderers.other import show_annotate, show_report
from dfscan.commands import annotate as annotate_job
from dfscan.commands import score as score_job
from dfscan.config.annotate import AnnotateConfig
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError, DfscanError, OutputError, SourceError
from dfscan.models.face_scorer import FaceScorer
from dfscan.models.modelfile import load_model, save_model
from dfscan.pipeline import scoring_setup
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.sandbox import transcoding
from dfscan.rendering import drawing
from dfscan.rendering.overlay import COLOURS
from dfscan.reports.build import ReportResult
from dfscan.video import open_video
from dfscan.video.writing import VideoWriter

FPS = 15


def frames_of(data):
    video = open_video(data, "pyav")
    return [frame for batch in video.read(range(video.count)) for frame in batch]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return making_verdicts.make_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture(scope="module")
def uncalibrated(model, tmp_path_factory):
    loaded = load_model(model)
    path = tmp_path_factory.mktemp("uncalibrated") / "u.safetensors"
    save_model(path, loaded.network, loaded.header.model_copy(update={"calibration": None}))
    return path


@pytest.fixture(scope="module")
def clip(corpus, tmp_path_factory):
    """Two people side by side, at an uneven pace, an odd size, with a tone."""
    found = {}
    with zipfile.ZipFile(corpus.parts[0]) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".mp4")):
            frames = frames_of(archive.read(name))
            other = found.setdefault(frames[0].rgb.shape, frames)
            if other is not frames:
                break
    path = tmp_path_factory.mktemp("clip") / "two.mp4"
    sound = with_tone(2.0)
    times = np.cumsum([0.0, *([1 / FPS, 2 / FPS] * 6)])
    rgb = [np.hstack([a.rgb, b.rgb])[:-1] for a, b in zip(other, frames, strict=True)]
    with VideoWriter(path, rgb[0].shape[1], rgb[0].shape[0], FPS, sound=sound) as writer:
        for picture, when in zip(rgb, times, strict=False):
            writer.write(picture, float(when))
    return path


def annotate(file, model, out=None, **keys):
    config = AnnotateConfig(
        file=str(file), model=(str(model),), out=str(out) if out else None, isolate=False, **keys
    )
    return annotate_job.run(config, Progress())


@pytest.fixture(scope="module")
def fake(clip, model, tmp_path_factory):
    """The clip, judged with a threshold that calls everybody FAKE."""
    out = tmp_path_factory.mktemp("fake") / "two.mp4"
    return annotate(clip, model, out, threshold=0.0)


def drawn(rgb, box, colour):
    """The share of a box's right side that has a colour, compression and movement forgiven."""
    _, y0, x1, y1 = (round(v) for v in box)
    near = np.abs(rgb[y0:y1].astype(int) - np.array(colour)).max(-1) < 60
    return max(near[:, x : x + 2].mean() for x in range(x1 - 12, x1 + 13))


def test_every_frame_is_there_at_its_time(clip, fake):
    before, after = frames_of(clip.read_bytes()), frames_of(Path(fake.out).read_bytes())
    assert len(after) == len(before) == fake.frames
    times = [frame.pts_s for frame in before]
    assert [frame.pts_s for frame in after] == pytest.approx(times, abs=1e-4)
    assert after[0].rgb.shape == before[0].rgb.shape


def test_each_person_gets_a_box_and_it_lies_where_the_face_is(clip, fake):
    assert [person["verdict"] for person in fake.people] == ["FAKE", "FAKE"]
    width = frames_of(clip.read_bytes())[0].rgb.shape[1]
    centres = sorted((p["box"][0] + p["box"][2]) / 2 / width for p in fake.people)
    assert centres[0] < 0.5 < centres[1]
    frames = frames_of(Path(fake.out).read_bytes())
    for person in fake.people:
        shares = [drawn(frame.rgb, person["box"], COLOURS["FAKE"]) for frame in frames]
        assert min(shares) > 0.6


def test_sound_is_kept(clip, fake):
    before, after = (sound_of(Path(p).read_bytes()) for p in (clip, fake.out))
    assert after[0] == before[0] == "aac"
    assert after[1:] == pytest.approx(before[1:], rel=0.01)
    assert fake.notes == []


def test_the_verdict_is_that_of_scoring_the_same_frames(clip, model, tmp_path):
    judged = annotate(clip, model, tmp_path / "a.mp4")
    config = ScoreConfig(
        source=(str(clip),), model=(str(model),), out=str(tmp_path / "v.parquet"),
        every=0.2, phase=0, inline=True, isolate=False,
    )  # fmt: skip
    score_job.run(config, Progress())
    (row,) = storage.read_table(tmp_path / "v.parquet").to_pylist()
    told = (judged.verdict, judged.reason, judged.calibrated)
    assert told == (row["verdict"], row["reason"], row["calibrated"])
    assert judged.p_fake == pytest.approx(row["p_fake"], abs=1e-6)
    assert judged.judged == len({frame["frame_index"] for frame in row["frames"]})
    for person, track in zip(judged.people, row["tracks"], strict=True):
        assert person["p_fake"] == pytest.approx(track["p_fake"], abs=1e-6)
        assert person["faces"] == track["faces"]


@pytest.mark.parametrize(("threshold", "verdict"), [(1.0, "REAL"), (None, "UNCERTAIN")])
def test_the_colour_of_a_picture_s_boxes_says_the_verdict(
    clip, uncalibrated, tmp_path, threshold, verdict
):
    first = frames_of(clip.read_bytes())[0].rgb
    picture = tmp_path / "two.people.png"
    Image.fromarray(first).save(picture)
    result = annotate(picture, uncalibrated, threshold=threshold)
    assert result.out == str(tmp_path / "two.people_results.png")
    assert [person["verdict"] for person in result.people] == [verdict] * 2
    assert (result.verdict, result.calibrated) == (verdict, False)
    sheet = np.asarray(Image.open(result.out))
    counts = {name: int((sheet == colour).all(-1).sum()) for name, colour in COLOURS.items()}
    assert counts[verdict] > 1000
    others = [counts[name] for name in COLOURS if name != verdict]
    assert sum(others) < counts[verdict] / 10
    height, width = first.shape[:2]
    assert sheet.shape[1] > 2 * width
    assert sheet.shape[0] > height + 192


def test_a_model_without_a_calibration_is_called_that(clip, uncalibrated, tmp_path, capsys):
    result = annotate(clip, uncalibrated, tmp_path / "a.mp4")
    assert {p["verdict"] for p in result.people} == {"UNCERTAIN"}
    assert {p["reason"] for p in result.people} == {"model_uncalibrated"}
    box = result.people[0]["box"]
    frame = frames_of((tmp_path / "a.mp4").read_bytes())[0].rgb
    assert drawn(frame, box, COLOURS["UNCERTAIN"]) > 0.2
    show_annotate(result)
    told = capsys.readouterr().out
    assert "UNCERTAIN (model_uncalibrated)" in told
    assert "p_fake 0" not in told


def test_a_video_without_a_face_is_written_and_told(write_clip, model, tmp_path, capsys):
    silent = write_clip("stripes.mp4", frames=10, width=160, height=120)
    result = annotate(silent, model)
    assert result.out == str(silent.with_name("stripes_annotated.mp4"))
    assert (result.verdict, result.reason, result.people) == (None, "no_face", [])
    before, after = (frames_of(Path(p).read_bytes()) for p in (silent, result.out))
    assert len(after) == len(before)
    changed = np.abs(after[5].rgb.astype(int) - before[5].rgb).max(-1) > 60
    rows, columns = np.nonzero(changed)
    assert rows.min() > 90  # the caption, at the bottom
    assert columns.max() < 110
    show_annotate(result)
    assert "no face found" in capsys.readouterr().out


def test_a_member_of_an_archive_is_written_here(corpus, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(corpus.parts[0]) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".mp4"))
    result = annotate(f"{corpus.parts[0]}!/{name}", model)
    assert Path(result.out) == tmp_path / f"{Path(name).stem}_annotated.mp4"
    assert len(frames_of(Path(result.out).read_bytes())) == result.frames


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.mp4", b"no video", r"a\.mp4: not_video: a text file, not a video"),
        ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(400), r"a\.mp4: decode_error: "),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40), r"a\.png: decode_error: "),
        ("a.m3u8", b"#EXTM3U\n", r"a\.m3u8: refused: an HLS playlist"),
    ],
)
def test_a_broken_file_is_one_line_and_leaves_nothing(tmp_path, model, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        annotate(tmp_path / name, model)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_no_file_is_told(tmp_path, model):
    with pytest.raises(SourceError, match="no file: give a video"):
        annotate_job.run(AnnotateConfig(model=(str(model),)), Progress())
    with pytest.raises(SourceError, match=r"there is no file at .*none\.mp4"):
        annotate(tmp_path / "none.mp4", model)
    with pytest.raises(SourceError, match="is a folder: give one video"):
        annotate(tmp_path, model)


def test_what_is_there_stays_unless_told_otherwise(write_clip, model, tmp_path):
    silent, out = write_clip(frames=4), tmp_path / "out.mp4"
    out.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists: give another --out, or --overwrite"):
        annotate(silent, model, out)
    with pytest.raises(OutputError, match="is the file itself"):
        annotate(silent, model, silent, overwrite=True)
    with pytest.raises(ConfigError, match=r"of a video a \.mp4 file is written"):
        annotate(silent, model, tmp_path / "out.png")
    assert out.read_bytes() == b"mine"
    annotate(silent, model, out, overwrite=True)
    assert len(frames_of(out.read_bytes())) == 4


def test_a_write_that_fails_leaves_nothing_behind(write_clip, model, tmp_path, monkeypatch):
    silent, out = write_clip("in/a.mp4", frames=4), tmp_path / "out" / "a.mp4"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter, "write", fail)
    with pytest.raises(Exception, match="No space left on device"):
        annotate(silent, model, out)
    assert list(out.parent.iterdir()) == []


def test_frames_lost_to_damage_are_left_out_and_counted(write_clip, model, tmp_path):
    whole = write_clip(frames=30, width=160, height=120, options={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    data[-len(data) // 3 :] = bytes(len(data) // 3)
    (tmp_path / "damaged.mp4").write_bytes(data)
    result = annotate(tmp_path / "damaged.mp4", model)
    assert 0 < result.frames < 30
    assert any("damaged or missing and were left out" in note for note in result.notes)


def test_a_rotated_phone_clip_comes_out_upright(samples, model, tmp_path):
    for degrees in (90, 180):
        clip = samples / "odd" / f"decord__video_{degrees}.mov"
        before = frames_of(clip.read_bytes())
        result = annotate(clip, model, tmp_path / f"{degrees}.mp4")
        after = frames_of(Path(result.out).read_bytes())
        assert [f.rgb.shape for f in after] == [f.rgb.shape for f in before]
        top = slice(0, after[0].rgb.shape[0] * 3 // 4)  # below is the caption
        assert np.abs(after[0].rgb[top].astype(int) - before[0].rgb[top]).mean() < 3
        with av.open(io.BytesIO(Path(result.out).read_bytes())) as opened:
            assert next(opened.decode(video=0)).rotation == 0


@pytest.fixture(scope="module")
def picture(clip, tmp_path_factory):
    """Two people."""
    path = tmp_path_factory.mktemp("picture") / "two.png"
    Image.fromarray(frames_of(clip.read_bytes())[0].rgb).save(path)
    return path


def test_the_aggregation_that_is_asked_for_finds_its_own_calibration(picture, model, tmp_path):
    loaded = load_model(model)
    usual = loaded.header.calibration
    other = usual.model_copy(update={"aggregation": "confident", "scale": 3.0, "offset": 40.0})
    paths = {}
    for name, calibrations in (("both", (other,)), ("only", ())):
        header = {"calibrations": calibrations, "calibration": usual}
        if name == "only":
            header["calibration"] = other
        paths[name] = tmp_path / f"{name}.safetensors"
        save_model(paths[name], loaded.network, loaded.header.model_copy(update=header))
    mean = annotate(picture, model, tmp_path / "m.png")
    both = annotate(picture, paths["both"], tmp_path / "b.png", aggregation="confident")
    assert (both.calibrated, both.notes) == (True, [])
    assert both.p_fake > 0.999
    assert both.people == mean.people  # each by the mean, as ever
    only = annotate(picture, paths["only"], tmp_path / "o.png", aggregation="confident")
    assert only.calibrated
    told = {(p["verdict"], p["reason"], p["calibrated"]) for p in only.people}
    assert told == {("UNCERTAIN", "not calibrated for aggregation mean", False)}
    none = annotate(picture, model, tmp_path / "n.png", aggregation="confident")
    assert (none.verdict, none.calibrated) == ("UNCERTAIN", False)
    assert none.notes == ["the model is not calibrated for aggregation confident"]
    assert none.people == mean.people


def spoil_scores(monkeypatch, value, faces):
    usual = FaceScorer.score

    def spoilt(self, found):
        scores = usual(self, found)
        members = scores.members.copy()
        members[:, faces] = value
        return dataclasses.replace(scores, members=members).fused_by(self.calibrations)

    monkeypatch.setattr(FaceScorer, "score", spoilt)


@pytest.mark.parametrize("bad", [1, 2])
def test_a_score_that_is_not_finite_spoils_its_own_person_only(
    picture, model, tmp_path, monkeypatch, capsys, bad
):
    said = []
    spoil_scores(monkeypatch, float("nan"), slice(bad))
    monkeypatch.setattr(
        drawing, "results", lambda *a, real=drawing.results: said.append(a) or real(*a)
    )
    result = annotate(picture, model, tmp_path / "a.png")
    assert result.verdict is None
    assert [p["p_fake"] is not None for p in result.people] == [True] * (2 - bad)
    ((_, marks, _, heading, _),) = said
    assert len(marks) == 2 - bad
    assert heading == "not judged: the model gave no finite score (NaN or infinity)"
    show_annotate(result)
    assert "not judged (the model gave no finite score" in capsys.readouterr().out


def test_a_video_whose_faces_cannot_be_judged_says_why(clip, model, tmp_path, monkeypatch):
    captions = set()
    spoil_scores(monkeypatch, float("inf"), slice(None))
    monkeypatch.setattr(drawing.Artist, "caption", lambda _, rgb, text: captions.add(text))
    annotate(clip, model, tmp_path / "a.mp4")
    assert captions == {"not judged: the model gave no finite score (NaN or infinity)"}


def test_drawing_has_a_deadline_and_leaves_nothing_behind(clip, model, tmp_path, monkeypatch):
    monkeypatch.setattr(annotate_job, "SLOWER", 0)
    out = tmp_path / "out" / "a.mp4"
    with pytest.raises(
        DfscanError, match=r"^two\.mp4: timeout: not drawn after 0 s \(--set"
    ) as error:
        annotate(clip, model, out)
    assert "\n" not in str(error.value)
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def looks_here(monkeypatch):
    """Faces are found in this process, so that drawing alone is apart."""
    for job in (annotate_job, scoring_setup):
        monkeypatch.setattr(
            job,
            "make_extractor",
            lambda config, *a, usual=annotate_job.make_extractor: usual(
                config.model_copy(update={"isolate": False}), *a
            ),
        )


class Killing(Progress):
    """Kills the process that draws, at its 3rd frame, so many times."""

    def __init__(self, times):
        self.left, self.started, self.at = times, 0, 0

    def start(self, what, total, unit):
        self.started, self.at = self.started + 1, 0

    def advance(self, by, result=None):
        self.at += by
        if self.at == 3 and self.left:
            self.left -= 1
            for there in transcoding._RUNNING:
                there.kill()


def test_apart_it_comes_to_the_same(clip, picture, fake, model, tmp_path, looks_here):
    config = AnnotateConfig(file=str(clip), model=(str(model),), threshold=0.0)
    dying = Killing(1)
    apart = annotate_job.run(config.model_copy(update={"out": str(tmp_path / "a.mp4")}), dying)
    assert (dying.started, dying.at) == (2, fake.frames), "a death from outside costs nothing"
    same = {"out": fake.out, "elapsed_s": fake.elapsed_s}
    assert dataclasses.replace(apart, **same) == fake
    frames = frames_of(Path(apart.out).read_bytes())
    assert [f.pts_s for f in frames] == [f.pts_s for f in frames_of(Path(fake.out).read_bytes())]
    for person in fake.people:
        assert min(drawn(f.rgb, person["box"], COLOURS["FAKE"]) for f in frames) > 0.6
    of = {"file": str(picture), "out": str(tmp_path / "apart.png")}
    annotate_job.run(config.model_copy(update=of), Progress())
    annotate(picture, model, tmp_path / "here.png", threshold=0.0)
    assert (tmp_path / "apart.png").read_bytes() == (tmp_path / "here.png").read_bytes()


def test_a_process_killed_half_way_is_one_line_and_leaves_nothing(
    write_clip, model, tmp_path, looks_here
):
    out = tmp_path / "out" / "a.mp4"
    config = AnnotateConfig(file=str(write_clip("in/a.mp4")), model=(str(model),), out=str(out))
    with pytest.raises(DfscanError) as told:
        annotate_job.run(config, Killing(3))
    assert str(told.value) == "a.mp4: crashed: drawing ended by SIGKILL on this video, 3 times"
    assert list(out.parent.iterdir()) == []


def test_what_the_process_that_draws_notes_is_fit_for_a_screen(
    write_clip, model, tmp_path, looks_here, monkeypatch
):
    program = (
        "import json, sys; there = json.loads(sys.stdin.buffer.readline())['paths'][0]; "
        "open(there, 'w').close(); sys.stdin.buffer.read(); "
        r"""print('{"made": {"frames": 1, "seconds": 1, "notes": ["\\u001b[2J"]}}')"""
    )
    monkeypatch.setattr(transcoding, "_CHILD", ("-c", program))
    config = AnnotateConfig(file=str(write_clip(frames=4)), model=(str(model),))
    assert annotate_job.run(config, Progress()).notes == ["?[2J"]


def test_only_what_ran_into_a_limit_is_advised_to_raise_it():
    ref = annotate_job._find(__file__)
    told = {
        status: str(annotate_job._unusable(ref, status, reason))
        for status, reason in (
            ("timeout", "not seen after 1 s"),
            ("crashed", "SIGSEGV on this video"),
        )
    }
    assert "annotate.timeout" in told["timeout"]
    assert "annotate" not in told["crashed"].replace("test_annotate.py", "")
    memory = str(annotate_job._unusable(ref, "crashed", "used more than 2.0 GiB of memory"))
    assert "annotate.max_memory" in memory
    assert "timeout" not in memory


def test_one_face_is_one_face_and_brackets_are_no_markup(capsys):
    person = {
        "track_id": 0, "verdict": "REAL", "reason": "[/b] odd", "p_fake": 0.1, "score_raw": -1.0,
        "first_s": 0.0, "last_s": 0.0, "faces": 1, "calibrated": True, "drawn": True,
    }  # fmt: skip
    people = [person, person | {"drawn": False}]
    told = annotate_job.AnnotateResult(
        "/x[/b].png", "REAL", "[/b] odd", 0.1, True, people, 1, 1, None, [], 1.0
    )
    show_annotate(told)
    shown = capsys.readouterr().out
    assert "1 face seen only once is not drawn" in shown
    assert shown.count("[/b]") >= 3
    show_report(ReportResult(out="/x[/b].html", kind="run", faces=0, bytes=1, elapsed_s=0.0))
    assert "/x[/b].html" in capsys.readouterr().out


def test_several_models_are_told_whose_view_is_shown(picture, model, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        drawing,
        "results",
        lambda *a, real=drawing.results: said.append(a[-1]) or real(*a),
    )
    other = making_verdicts.make_model(tmp_path / "o.safetensors", seed=1)
    config = AnnotateConfig(
        file=str(picture), model=(str(model), str(other)), out=str(tmp_path / "a.png"),
        isolate=False, aggregation="trimmed",
    )  # fmt: skip
    result = annotate_job.run(config, Progress())
    annotate(picture, model, tmp_path / "b.png")
    assert said == ["the first network", "the network"]
    usual = config.model_copy(update={"aggregation": "mean", "out": str(tmp_path / "c.png")})
    assert annotate_job.run(usual, Progress()).people == result.people
