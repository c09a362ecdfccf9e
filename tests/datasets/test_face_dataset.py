from collections import Counter
from dataclasses import replace

import pytest

from dfscan import storage
from dfscan.datasets import face_dataset as facesets
from dfscan.datasets.face_dataset import FaceSet, open_facesets
from dfscan.errors import OutputError, SourceError
from dfscan.schemas.recipe import FaceRecipe, Sampling, Stride
from dfscan.schemas.records import SCHEMA_VERSION, FaceRow, VideoRef, VideoRow
from dfscan.storage import commit_json, read_tables

RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=30, fake=100)))
HEADER = {
    "schema_version": SCHEMA_VERSION,
    "config": {"crop": {"context": 0.6}},
    "recipe": RECIPE.model_dump(mode="json"),
}


def video(name, version="1", at=1.0, status="ok", label="REAL", faces=1):
    return VideoRow(
        video_id=name,
        uri=f"/{name}",
        part="p",
        bytes=1,
        version=version,
        label=label,
        original=None,
        group=name,
        attributes={},
        status=status,
        frames_sampled=2,
        frames_decoded=10,
        faces=faces,
        committed_at=at,
    )


def done(faceset, *wanted, label="REAL"):
    """Which of ``"name@version"`` need no more work."""
    refs = []
    for text in wanted:
        name, _, version = text.partition("@")
        refs.append(VideoRef(name, f"/{name}", "p", label, None, name, 1, version))
    return {n for n, status in faceset.committed(refs).status.items() if status != "missing"}


def face(name, image=b"jpeg", index=0):
    return FaceRow(
        video_id=name,
        uri=f"/{name}",
        part="p",
        label="REAL",
        original=None,
        group=name,
        attributes={},
        frame_index=0,
        pts_s=0.0,
        key_frame=True,
        face_index=index,
        box=(0.0, 0.0, 1.0, 1.0),
        landmarks=(0.0,) * 10,
        detector_score=1.0,
        box_from="detected",
        crop_box=(0.0, 0.0, 1.0, 1.0),
        image=image,
        weight=1.0,
    )


def rows(folder):
    return [row for _, table in read_tables(folder) for row in table.to_pylist()]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def faceset(tmp_path):
    faceset = FaceSet(tmp_path / "faces")
    faceset.prepare(HEADER, overwrite=False)
    return faceset


def test_a_committed_video_is_done_with_its_version(faceset):
    assert done(faceset, "a@1", "b@7") == set()
    faceset.commit("u1", [video("a"), video("b", version="7")], [face("a")])
    assert done(faceset, "a@1", "b@7") == {"a", "b"}
    assert done(faceset, "a@2", "b@7") == {"b"}


def test_a_video_whose_label_was_corrected_is_not_done(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    assert done(faceset, "a@1", label="FAKE") == set()


def test_the_status_of_the_last_row_counts(faceset):
    faceset.commit("u1", [video("a", status="timeout", faces=0)], [])
    faceset.commit("u0", [video("a", at=2.0)], [face("a")])
    refs = [VideoRef("a", "/a", "p", "REAL", None, "a", 1, "1")]
    known = faceset.committed(refs)
    assert (known.status, known.known, known.others, known.latest) == ({"a": "ok"}, {"a"}, set(), 2)


def test_a_new_group_is_written_without_new_work(faceset):
    faceset.commit("u1", [video("a"), video("b")], [face("a"), face("b")])
    refs = [VideoRef(n, f"/{n}", "p", "REAL", None, g, 1, "1") for n, g in (("a", "a"), ("b", "a"))]
    known = faceset.committed(refs)
    assert known.status == {"a": "ok", "b": "ok"}
    assert known.regroup == {"b": "a"}
    faceset.regroup(known.regroup)
    for folder in (faceset.videos, faceset.faces):
        assert {r["video_id"]: r["group"] for r in rows(folder)} == {"a": "a", "b": "a"}
    assert faceset.committed(refs).regroup == {}


def test_rows_that_promise_other_faces_than_there_are_do_not_count(faceset):
    faceset.commit("u1", [video("a", status="timeout", faces=0)], [face("a")])
    faceset.commit("u2", [video("b", faces=2)], [face("b")])
    faceset.commit("u3", [video("c")], [face("c")])
    faceset.reconcile()
    assert done(faceset, "a@1", "b@1", "c@1") == {"c"}
    assert names(faceset.faces) == ["u3.parquet"]


def test_nothing_is_changed_once_another_run_has_taken_over(faceset):
    faceset.commit("u1", [video("a"), video("b")], [face("a"), face("b")])
    faceset.commit("u0", [video("a", version="2", at=2.0)], [face("a", b"new")])

    def taken_over():
        raise OutputError("taken over")

    other = replace(faceset, check=taken_over)
    before = {p: p.read_bytes() for p in faceset.root.rglob("*.parquet")}
    for act in (
        other.reconcile,
        other.compact,
        lambda: other.commit("u2", [video("c")], [face("c")]),
        lambda: other.purge({"a"}),
        lambda: other.finish(HEADER, {}, "card"),
    ):
        with pytest.raises(OutputError, match="taken over"):
            act()
    assert {p: p.read_bytes() for p in faceset.root.rglob("*.parquet")} == before


def test_faces_without_their_videos_file_are_not_done_and_reconcile_removes_them(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    faceset.commit("u2", [video("b")], [face("b")])
    (faceset.videos / "u2.parquet").unlink()
    assert done(faceset, "a@1", "b@1") == {"a"}
    faceset.reconcile()
    assert names(faceset.faces) == ["u1.parquet"]


def test_a_changed_video_supersedes_its_old_row_and_faces(faceset):
    faceset.commit("u1", [video("a"), video("b")], [face("a", b"old"), face("b")])
    faceset.commit("u0", [video("a", version="2", at=2.0)], [face("a", b"new")])
    assert done(faceset, "a@2", "b@1") == {"a", "b"}
    faceset.reconcile()
    assert sorted((r["video_id"], r["version"]) for r in rows(faceset.videos)) == [
        ("a", "2"),
        ("b", "1"),
    ]
    assert sorted((r["video_id"], r["image"]["bytes"]) for r in rows(faceset.faces)) == [
        ("a", b"new"),
        ("b", b"jpeg"),
    ]


@pytest.mark.parametrize("units", [4, 5])
def test_of_many_units_the_last_row_of_a_video_is_left(faceset, monkeypatch, units):
    monkeypatch.setattr(facesets, "SMALL_TABLES", 2)
    for number in range(units):
        names_ = ["a", f"b{number}"]
        rows_ = [video(name, version=str(number), at=1.0 + number) for name in names_]
        faceset.commit(f"u{units - number}", rows_, [face(name) for name in names_])
    faceset.reconcile()
    assert sorted((r["video_id"], r["version"]) for r in rows(faceset.videos)) == [
        ("a", str(units - 1)),
        *((f"b{number}", str(number)) for number in range(units)),
    ]


def test_a_unit_whose_faces_are_gone_is_not_committed(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    faceset.commit("u2", [video("b")], [face("b")])
    (faceset.faces / "u2.parquet").unlink()
    faceset.reconcile()
    assert done(faceset, "a@1", "b@1") == {"a"}


def several(faceset, count=6):
    for number in range(count):
        name = f"v{number}"
        faceset.commit(f"u{number}", [video(name), video(f"{name}x", faces=0)], [face(name)])


def content(faceset):
    videos = sorted(r["video_id"] for r in rows(faceset.videos))
    return videos, sorted(r["video_id"] for r in rows(faceset.faces))


def test_small_units_are_merged_and_nothing_is_lost(faceset):
    several(faceset)
    before = content(faceset)
    faceset.compact()
    assert content(faceset) == before
    assert len(names(faceset.videos)) == len(names(faceset.faces)) == 1
    assert names(faceset.videos) == names(faceset.faces)
    faceset.compact()
    assert content(faceset) == before


def test_units_that_are_large_enough_are_left_alone(faceset, monkeypatch):
    several(faceset, 3)
    monkeypatch.setattr(facesets, "COMPACT_VIDEOS", 4)
    faceset.compact()
    assert names(faceset.videos) == ["u0.parquet", "u1.parquet", "u2.parquet"]
    monkeypatch.setattr(facesets, "COMPACT_VIDEOS", 6)
    faceset.compact()
    assert len(names(faceset.videos)) == 1  # three of two videos each


@pytest.mark.parametrize("point", ["compact.faces", "compact.videos", "compact.removing"])
def test_a_merge_that_breaks_off_leaves_every_row_once(faceset, monkeypatch, point):
    several(faceset)
    before = content(faceset)

    def strike(where, name=""):
        if where == point:
            raise KeyboardInterrupt

    monkeypatch.setattr(facesets.faults, "fault_point", strike)
    with pytest.raises(KeyboardInterrupt):
        faceset.compact()
    monkeypatch.undo()
    faceset.reconcile()
    assert content(faceset) == before
    faceset.compact()
    assert content(faceset) == before


def test_a_purged_video_leaves_no_trace_and_its_fakes_are_counted(faceset):
    several(faceset, 2)
    fake = replace(video("fake"), original="v0")
    faceset.commit("u9", [fake], [face("fake")])
    faceset.commit("orphan", [video("v0")], [face("v0", b"SECRET")])
    (faceset.videos / "orphan.parquet").unlink()
    found = faceset.purge({"v0"})
    assert found == {"videos": 1, "faces": 1, "made_from_it": 1}
    videos, faces = content(faceset)
    assert "v0" not in videos + faces
    assert {"v0x", "v1", "fake"} <= set(videos)
    assert all(b"SECRET" not in p.read_bytes() for p in faceset.faces.iterdir())


def test_a_unit_that_is_superseded_whole_loses_both_files(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    faceset.commit("u2", [video("a", version="2", at=2.0, status="no_face", faces=0)], [])
    faceset.reconcile()
    assert names(faceset.videos) == ["u2.parquet"]
    assert names(faceset.faces) == []


def test_reconciling_a_clean_dataset_rewrites_nothing(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    before = (faceset.faces / "u1.parquet").stat().st_ino
    faceset.reconcile()
    assert (faceset.faces / "u1.parquet").stat().st_ino == before


def test_reconciling_reads_every_unit_once(faceset, monkeypatch):
    several(faceset)
    read = Counter()
    real = storage.read_table

    def counted(path, columns=None):
        read[path.name] += 1
        return real(path, columns)

    monkeypatch.setattr(storage, "read_table", counted)
    faceset.reconcile()
    assert read == Counter(names(faceset.videos))


def test_a_unit_done_again_without_faces_leaves_none_of_the_run_that_died(faceset):
    faceset.commit("u1-run1", [video("a")], [face("a")])
    (faceset.videos / "u1-run1.parquet").unlink()
    faceset.commit("u1-run2", [video("a", status="timeout", faces=0)], [])
    faceset.reconcile()
    assert rows(faceset.faces) == []
    assert done(faceset, "a@1") == {"a"}


def test_the_same_configuration_continues(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    faceset.prepare(HEADER, overwrite=False)
    assert done(faceset, "a@1") == {"a"}


def test_another_configuration_is_refused_naming_the_key_and_the_way_out(faceset):
    other = HEADER | {"config": {"crop": {"context": 0.3}}}
    with pytest.raises(OutputError, match=r"crop\.context: 0\.6 → 0\.3.*--overwrite"):
        faceset.prepare(other, overwrite=False)
    assert faceset.header()["config"] == HEADER["config"]


def test_overwrite_starts_anew(faceset):
    faceset.commit("u1", [video("a")], [face("a")])
    other = HEADER | {"config": {"crop": {"context": 0.3}}}
    faceset.prepare(other, overwrite=True)
    assert done(faceset, "a@1") == set()
    assert faceset.header()["config"] == other["config"]


def test_finish_counts_what_is_there(faceset):
    faceset.commit("u1", [video("a"), video("b", label="FAKE", faces=3)], [face("a")] * 4)
    faceset.commit("u2", [video("c", label=None, status="no_face", faces=0)], [])
    assert faceset.header()["finished"] is False
    counts = faceset.counts()
    faceset.finish(HEADER, counts, "# card")
    assert counts == {
        "videos": 3,
        "status": {"no_face": 1, "ok": 2},
        "label": {"FAKE": 1, "REAL": 1, "unlabelled": 1},
        "frames_sampled": 6,
        "frames_decoded": 30,
        "frames_lost": 0,
        "faces": 4,
        "tracks": 0,
        "bytes": 3,
        "parts": {"p": {"no_face": 1, "ok": 2}},
    }
    assert faceset.header()["finished"] is True
    assert faceset.header()["counts"] == counts
    assert (faceset.root / "README.md").read_text() == "# card"


def test_the_recipe_survives_the_dataset(faceset):
    assert faceset.recipe().hash() == RECIPE.hash()


def test_a_folder_without_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(SourceError, match=r"is not a face dataset.*dfscan extract"):
        open_facesets([str(tmp_path)])


def test_a_newer_dataset_is_refused(faceset):
    commit_json(faceset.root / "dataset.json", HEADER | {"schema_version": SCHEMA_VERSION + 1})
    with pytest.raises(SourceError, match="upgrade dfscan"):
        open_facesets([str(faceset.root)])


def test_a_dataset_is_unfinished_while_a_later_run_adds_to_it(faceset):
    faceset.finish(HEADER, faceset.counts(), "card")
    assert faceset.header()["finished"]
    faceset.prepare(HEADER, overwrite=False)
    assert not faceset.header()["finished"]
