"""The synthetic corpus: DFDC's shape, equal bytes from equal specs, fakes that differ in the face.

No test here says anything about real deepfakes; neither does the corpus.
"""

import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from dfscan.errors import ConfigError, DfscanError

pytest.importorskip("skimage", reason="pip install 'dfscan[quickstart]'")

from dfscan.commands.quickstart import synthetic
from dfscan.commands.quickstart.synthetic import Corpus, CorpusSpec, make_corpus

TINY = CorpusSpec(people=3, test_people=2, parts=2, fakes_per_real=2, frames=8, seed=5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("tiny"), TINY)


def metadata(archive: Path, inside: str) -> dict[str, dict[str, str]]:
    with zipfile.ZipFile(archive) as opened:
        table: dict[str, dict[str, str]] = json.loads(opened.read(f"{inside}/metadata.json"))
    return table


def clips(corpus: Corpus) -> Iterator[tuple[Path, str, dict[str, str], bytes]]:
    for archive in (*corpus.parts, corpus.test):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                if member.endswith(".mp4"):
                    inside, name = member.split("/")
                    yield archive, name, metadata(archive, inside)[name], opened.read(member)


def decoded(clip: bytes) -> npt.NDArray[np.uint8]:
    with av.open(io.BytesIO(clip)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_archives_have_the_shape_of_dfdc(tiny: Corpus) -> None:
    assert [p.name for p in tiny.parts] == ["dfdc_train_part_00.zip", "dfdc_train_part_01.zip"]
    assert tiny.test.name == "dfdc_test.zip"
    insides = ["dfdc_train_part_0", "dfdc_train_part_1", "dfdc_test"]
    for archive, inside in zip((*tiny.parts, tiny.test), insides, strict=True):
        table = metadata(archive, inside)
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
        assert {m.filename for m in members} == {
            f"{inside}/{name}" for name in (*table, "metadata.json")
        }
        assert all(m.compress_type == zipfile.ZIP_STORED for m in members)
        assert all(re.fullmatch(r"[a-z]{10}\.mp4", name) for name in table)
        assert list(table) == sorted(table)  # the order tells no labels


def test_labels_and_originals_lie_in_one_archive(tiny: Corpus) -> None:
    for archive, inside, split in (
        (tiny.parts[0], "dfdc_train_part_0", "train"),
        (tiny.parts[1], "dfdc_train_part_1", "train"),
        (tiny.test, "dfdc_test", "test"),
    ):
        table = metadata(archive, inside)
        reals = {name for name, row in table.items() if row == {"label": "REAL", "split": split}}
        fakes = {name: row for name, row in table.items() if name not in reals}
        assert len(fakes) == 2 * len(reals)
        for row in fakes.values():
            assert row == {"label": "FAKE", "split": split, "original": row["original"]}
            assert row["original"] in reals


def test_every_video_has_its_own_name(tiny: Corpus) -> None:
    names = [name for _, name, _, _ in clips(tiny)]
    assert len(set(names)) == len(names) == tiny.videos == (3 + 2) * (1 + 2)


def test_equal_specs_give_equal_bytes(tmp_path: Path) -> None:
    spec = CorpusSpec(people=2, test_people=2, parts=1, frames=8)
    first = make_corpus(tmp_path / "first", spec)
    synthetic._person.cache_clear()
    again = make_corpus(tmp_path / "again", spec)
    other = make_corpus(
        tmp_path / "other", CorpusSpec(people=2, test_people=2, parts=1, frames=8, seed=1)
    )
    assert first.parts[0].read_bytes() == again.parts[0].read_bytes()
    assert first.test.read_bytes() == again.test.read_bytes()
    assert first.parts[0].read_bytes() != other.parts[0].read_bytes()


def test_a_fake_is_encoded_as_its_original_is(tiny: Corpus) -> None:
    def facts(clip: bytes) -> tuple[object, ...]:
        with av.open(io.BytesIO(clip)) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            settings = re.search(rb"x264 - core .*?\x00", clip, re.DOTALL)
            assert settings is not None
            packets = [p for p in container.demux(stream) if p.size]
            keys = tuple(i for i, p in enumerate(packets) if p.is_keyframe)
            shape = (context.name, context.profile, context.pix_fmt, stream.width, stream.height)
            return (*shape, stream.average_rate, stream.frames, keys, settings.group())

    found = {name: (row, facts(clip)) for _, name, row, clip in clips(tiny)}
    for name, (row, fact) in found.items():
        assert fact == found[row.get("original", name)][1]
        assert fact[0] == "h264"
        assert fact[2] == "yuv420p"
        assert fact[5:8] == (TINY.fps, TINY.frames, (0,))
        assert "bframes=3" in str(fact[8])


def test_a_fake_differs_from_its_original_in_the_face_alone(tiny: Corpus) -> None:
    found = {name: (row, decoded(clip)) for _, name, row, clip in clips(tiny)}
    for row, frames in found.values():
        if row["label"] == "REAL":
            continue
        original = found[row["original"]][1]
        # The mean over time: what the encoder adds to a frame differs from the next frame's.
        change = np.abs((frames.astype(float) - original).mean(0)).mean(-1)
        change = ndimage.gaussian_filter(change, 2)
        face = face_region(original[0].shape[:2], change)
        assert 0.03 < face.mean() < 0.35
        assert change[face].mean() > 3
        assert change[~ndimage.binary_dilation(face, iterations=12)].mean() < 0.8


def face_region(shape: tuple[int, ...], change: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """The box around the largest connected region that changed."""
    regions, count = ndimage.label(change > 2)
    sizes = ndimage.sum_labels(np.ones(shape), regions, range(1, count + 1))
    rows, columns = ndimage.find_objects(regions)[int(np.argmax(sizes))]
    face = np.zeros(shape, bool)
    face[rows, columns] = True
    return face


def test_progress_counts_every_video(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    spec = CorpusSpec(people=2, test_people=2, parts=2, frames=2, size=160)
    corpus = make_corpus(tmp_path, spec, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 8) for n in range(1, 9)]
    assert corpus.videos == 8


@pytest.mark.parametrize(
    ("name", "value"),
    [("people", 1), ("parts", 51), ("frames", 0), ("size", 161), ("size", 100), ("seed", -1)],
)
def test_a_number_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"{name} = {value}: give"):
        CorpusSpec(**{name: value})


def test_a_missing_scikit_image_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic._portrait.cache_clear()
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DfscanError, match=r"pip install 'dfscan\[quickstart\]'"):
        make_corpus(tmp_path, TINY)
    assert not list(tmp_path.iterdir())
