import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from dfscan.datasets import audit
from dfscan.datasets.audit import (
    NO_HASH,
    SidedPictures,
    SidedVideos,
    check_sides,
    hamming,
    matches_within,
    near_duplicates,
    perceptual_hash,
    picture_digest,
    shortcuts,
)
from dfscan.errors import UsageError


def sided(**columns):
    """Videos of which each is alone, unless told otherwise."""
    size = len(columns["side"])
    names = [f"v{i}" for i in range(size)]
    columns = {
        "video_id": names,
        "group": names,
        "original": [None] * size,
        "content_sha256": [None] * size,
    } | columns
    return SidedVideos(**{**columns, "side": np.array(columns["side"], np.int8)})


def pictured(encoded, video=None):
    """Faces, each of its own video unless told otherwise."""
    return SidedPictures(
        video=np.arange(len(encoded), dtype=np.int32) if video is None else np.int32(video),
        digest=np.array([picture_digest(p) for p in encoded], np.uint64),
        perceptual=np.array([perceptual_hash(p) for p in encoded], np.uint64),
    )


def encode(pixels, codec="PNG", **options):
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, codec, **options)
    return sink.getvalue()


def pixels_of(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def noise(seed, size=64):
    """A picture of few and large shapes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def test_videos_that_share_nothing_over_sides_pass():
    videos = sided(
        side=[0, 0, 1, 2],
        group=["a", "a", "b", "c"],
        original=[None, "v0", "elsewhere", None],
        content_sha256=["x", "x", None, None],
    )
    pictures = pictured([encode(noise(s)) for s in (1, 1, 2, 3)])
    check_sides(videos, pictures)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"group": ["a", "b", "a", "b"]},
            r"2 group\(s\) on two sides, as in v0 \(train\) and v2 \(validation\); "
            r"v1 \(train\) and v3 \(test\)",
        ),
        (
            {"original": [None, None, None, "v1"]},
            r"1 original\(s\) with fakes on two sides, as in v1 \(train\) and v3 \(test\): .*--gr",
        ),
        (
            {"original": [None, None, "gone", "gone"]},
            r"1 original\(s\) with fakes on two sides, as in v2 \(validation\) and v3 \(test\)",
        ),
        (
            {"content_sha256": ["x", "y", None, "x"]},
            r"1 identical file\(s\) on two sides, as in v0 \(train\) and v3 \(test\)",
        ),
    ],
)
def test_what_lies_on_two_sides_stops_and_is_named(columns, message):
    with pytest.raises(UsageError, match=message):
        check_sides(sided(side=[0, 0, 1, 2], **columns))


def test_an_identical_picture_on_two_sides_stops():
    videos = sided(side=[0, 0, 1])
    shown = [encode(noise(s)) for s in (1, 2, 1, 2, 1, 1)]
    with pytest.raises(UsageError, match=r"1 identical picture\(s\) .* v0 \(train\) and v2 \(v"):
        check_sides(videos, pictured(shown, video=[0, 0, 0, 1, 2, 2]))


def test_three_million_faces_are_checked_in_seconds():
    rng = np.random.default_rng(0)
    size = 3_000_000
    videos = sided(side=rng.integers(3, size=1000))
    pictures = SidedPictures(
        rng.integers(1000, size=size, dtype=np.int32),
        rng.integers(2**63, size=size, dtype=np.uint64),
        np.zeros(size, np.uint64),
    )
    started = time.monotonic()
    check_sides(videos, pictures)
    assert time.monotonic() - started < 10


def test_the_digest_is_of_the_bytes():
    # SHA-256 of nothing begins e3b0c44298fc1c14 (FIPS 180-4, example of the empty message)
    assert picture_digest(b"") == 0xE3B0C44298FC1C14


def test_the_hash_is_zauners_by_the_definition_of_the_cosine_transform():
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    at = np.arange(32)
    basis = np.cos(np.pi * (2 * at[None] + 1) * at[:, None] / 64)[1:9]
    low = (basis @ grey @ basis.T).ravel()
    middle = np.sort(low)[31:33].mean()
    bits = "".join("1" if value > middle else "0" for value in low)
    assert perceptual_hash(encode(grey)) == int(bits, 2)


def test_the_hash_has_as_many_ones_as_zeros():
    found = [perceptual_hash(encode(noise(s))) for s in range(20)]
    assert {value.bit_count() for value in found} == {32}
    assert len(set(found)) == 20


def stripes(rising):
    return np.broadcast_to(rising, (64, 64)).astype(np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        b"",
        b"no picture",
        encode(noise(0))[:200],
        encode(np.full((64, 64, 3), 90, np.uint8), "JPEG"),
        encode(stripes(np.arange(64)[:, None])),
        encode(np.uint8(128 + np.random.default_rng(0).integers(0, 2, (64, 64)))),
    ],
    ids=["empty", "text", "cut off", "flat", "a ramp", "flat but for noise"],
)
def test_a_picture_that_shows_nothing_has_no_hash(picture):
    assert perceptual_hash(picture) == NO_HASH


def test_bits_are_counted():
    rng = np.random.default_rng(0)
    left, right = rng.integers(2**64, size=(2, 500), dtype=np.uint64)
    expected = [(a ^ b).bit_count() for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert hamming(left, right).tolist() == expected


@pytest.mark.parametrize("distance", [0, 1, 4, 7])
def test_matches_are_those_that_comparing_all_with_all_finds(distance):
    rng = np.random.default_rng(distance)
    known = rng.integers(2**64, size=300, dtype=np.uint64)
    hashes = rng.integers(2**64, size=400, dtype=np.uint64)
    for at in range(200):  # within 0 to 9 bits of a known one
        flips = rng.choice(64, at % 10, replace=False)
        hashes[at] = known[at] ^ np.bitwise_or.reduce(
            np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0)
        )
    every = np.array([hamming(np.full(len(known), h), known).min() for h in hashes])
    match = matches_within(hashes, known, distance)
    assert ((match >= 0) == (every <= distance)).all()
    hit = match >= 0
    assert hit.sum() >= 20 * (distance + 1)
    assert hamming(hashes[hit], known[match[hit]]).max() <= distance


def test_many_candidates_are_compared_in_portions(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(1 << 16, size=1000, dtype=np.uint64)  # 48 of the bits agree in all
    known = rng.integers(1 << 16, size=1000, dtype=np.uint64)
    whole = matches_within(hashes, known, 2) >= 0
    monkeypatch.setattr(audit, "_PAIRS", 3000)
    assert ((matches_within(hashes, known, 2) >= 0) == whole).all()
    every = np.array([hamming(np.full(len(known), h), known).min() for h in hashes])
    assert (whole == (every <= 2)).all()


def test_nothing_to_compare_with_is_no_match():
    none = np.zeros(0, np.uint64)
    some = np.ones(3, np.uint64)
    assert matches_within(none, some, 4).tolist() == []
    assert matches_within(some, none, 4).tolist() == [-1, -1, -1]


def test_near_duplicates_are_counted_and_named_by_side():
    first, second, alone = (noise(s, 128) for s in (1, 2, 3))
    again = encode(first, "JPEG", quality=70)
    shown = [encode(first), encode(alone), again, again, encode(second), encode(second, "JPEG")]
    videos = sided(side=[0, 1, 2], video_id=["a.mp4", "b.mp4", "c.mp4"])
    found = near_duplicates(videos, pictured(shown, video=[0, 0, 1, 1, 1, 2]))
    assert (found.compared, found.found) == (4, 3)  # both of b's like a's, and c's like b's
    assert [pair[:2] for pair in found.examples] == [("a.mp4", "b.mp4"), ("b.mp4", "c.mp4")]
    assert "3 of 4 held-out faces look like one of another side" in found.warning
    assert "a.mp4 and b.mp4" in found.warning


def test_copies_on_one_side_and_flat_pictures_are_no_near_duplicates():
    same, flat = encode(noise(1)), encode(np.zeros((64, 64), np.uint8))
    found = near_duplicates(sided(side=[0, 0, 1, 1, 2]), pictured([same, same, flat, flat, flat]))
    assert (found.compared, found.found, found.warning) == (0, 0, None)


@pytest.fixture(scope="module")
def faces(samples):
    return [p.read_bytes() for p in sorted((samples / "images" / "gan_faces").rglob("*.jpg"))]


def test_different_faces_are_no_near_duplicates(faces):
    found = near_duplicates(sided(side=np.arange(len(faces)) % 2), pictured(faces))
    assert found.compared >= 290
    assert found.found == 0


def test_faces_encoded_again_are_near_duplicates(faces):
    some = faces[:100]
    options = [{"quality": 50}, {"quality": 90}, {"quality": 75, "subsampling": 0}]
    again = [encode(pixels_of(f), "JPEG", **options[i % 3]) for i, f in enumerate(some)]
    videos = sided(side=[0] * 100 + [1] * 100)
    found = near_duplicates(videos, pictured(some + again))
    assert found.compared == 100
    assert found.found >= 99
    smaller = [
        encode(np.asarray(Image.fromarray(pixels_of(f)).resize((150, 150))), "JPEG") for f in some
    ]
    assert near_duplicates(videos, pictured(some + smaller)).found >= 95


def table(seed, groups=60, faces=10):
    """Columns that know nothing: half of each group is fake, and each group has its own size."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), faces)
    fake = np.tile(np.arange(faces) % 2 == 0, groups)
    columns = {
        "frame_index": rng.integers(300, size=len(fake)),
        "key_frame": rng.random(len(fake)) < 0.05,
        "width": rng.integers(60, 500, size=groups)[group],
        "detector_score": rng.random(len(fake), np.float32),
    }
    return columns, fake, group, rng


def test_a_column_that_tells_is_named():
    columns, fake, group, rng = table(0)
    columns["bytes"] = np.where(fake, 9000, 10_000) + rng.normal(0, 700, len(fake))
    found = shortcuts(columns, fake, group, seed=0)
    assert next(iter(found.alone)) == "bytes"
    # two normals one and three sevenths deviations apart: AUC = Φ(1.43 / √2) = 0.84
    assert found.alone["bytes"] == pytest.approx(0.84, abs=0.05)
    assert found.low < found.auc < found.high
    assert (
        "fakes can be separated from reals without any pixels, by bytes (AUC 0.8" in found.warning
    )
    assert "width" not in found.warning
    assert (found.faces, found.groups, found.note) == (600, 60, None)


def test_columns_that_tell_only_together_are_named():
    columns, fake, group, rng = table(0, groups=100)
    sign = rng.random(len(fake)) < 0.5
    columns = {"left": sign, "right": sign ^ fake}
    found = shortcuts(columns, fake, group, seed=0)
    assert found.auc == pytest.approx(1.0)
    assert re.search("by (left, right|right, left), though by none of them alone:", found.warning)


def test_a_column_that_is_not_always_known_counts_with_its_gaps():
    columns, fake, group, _ = table(0)
    columns = {"pts_s": np.where(fake, np.nan, 1.0), "unknown": np.full(len(fake), np.nan)}
    found = shortcuts(columns, fake, group, seed=0)
    assert found.alone == {"pts_s": 1.0, "unknown": 0.5}


@pytest.mark.parametrize("paired", [True, False], ids=["pairs", "a label a group"])
def test_noise_is_hardly_ever_called_a_shortcut(paired):
    alarms = 0
    for seed in range(20):
        columns, fake, group, rng = table(seed, groups=30)
        if not paired:
            fake = (rng.permutation(30) % 2 == 0)[group]
        columns = {name: columns[name] for name in ("frame_index", "width")}
        alarms += shortcuts(columns, fake, group, seed).warning is not None
    assert alarms <= 1


def test_what_is_learnt_of_a_group_is_not_taken_for_a_shortcut():
    columns, _, group, rng = table(1, groups=40)
    fake = (rng.permutation(40) % 2 == 0)[group]
    columns = {"width": rng.permutation(1000)[:40][group]}  # each group's own: recognises it
    found = shortcuts(columns, fake, group, seed=0)
    assert found.warning is None
    assert found.high - found.low > 0.2  # 40 groups, not 400 faces, are what it goes by


def test_the_interval_is_of_groups_drawn_with_replacement():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(50), 4)
    fake = np.tile([True, False], 100)
    scores = np.round(rng.normal(size=200) + fake, 1)  # with ties
    low, high = audit._interval(scores, fake, group, seed=3)
    draws = np.random.default_rng(3)
    aucs = []
    for _ in range(500):
        faces = np.concatenate([np.flatnonzero(group == g) for g in draws.integers(50, size=50)])
        aucs.append(roc_auc_score(fake[faces], scores[faces]))
    middle = roc_auc_score(fake, scores)
    wider = middle + 1.5 * (np.percentile(aucs, [2.5, 97.5]) - middle)
    assert (low, high) == pytest.approx(tuple(wider))


def test_too_many_faces_are_thinned_out_and_classes_kept(monkeypatch):
    monkeypatch.setattr(audit, "FACES", 200)
    columns, fake, group, rng = table(0, groups=100)
    columns["bytes"] = fake + rng.normal(0, 0.1, len(fake))
    found = shortcuts(columns, fake, group, seed=0)
    assert found.faces == 200
    assert found.alone["bytes"] > 0.95
    rare = np.flatnonzero(~fake | (np.arange(len(fake)) % 50 == 0))  # 500 real, 20 fake
    chosen = audit._chosen(fake[rare], seed=0)
    assert len(chosen) == len(np.unique(chosen)) == 200
    assert fake[rare][chosen].sum() == 20


def test_the_same_seed_gives_the_same_figures():
    columns, fake, group, _ = table(5)
    assert shortcuts(columns, fake, group, 1) == shortcuts(columns, fake, group, 1)


@pytest.mark.parametrize(
    ("fake", "groups", "note"),
    [
        ([True] * 40, range(40), "real faces come from 0 group"),
        ([False] * 40, range(40), "fake faces come from 0 group"),
        ([True, False] * 20, [0] * 20 + [1] * 20, "real faces come from 2 group"),
        ([False] * 31 + [True] * 9, range(40), r"fake faces come from 9 group.*10 are needed"),
        ([], [], "real faces come from 0 group"),
    ],
)
def test_too_little_to_go_by_is_said_and_gives_no_figure(fake, groups, note):
    columns = {"bytes": np.arange(len(fake))}
    found = shortcuts(columns, np.array(fake, bool), np.array([*groups]), seed=0)
    assert found.faces == len(fake)
    assert (found.auc, found.low, found.high, found.warning) == (None, None, None, None)
    assert re.search(note, found.note)
