import hashlib
import random
from functools import partial
from itertools import pairwise

import pytest

from dfscan.schemas.recipe import Sampling, Stride
from dfscan.video.sampling import SPARSEST_S, frame_indices

DFDC = Sampling(stride=Stride(real=30, fake=100))
HASHES = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(300)]

indices = partial(frame_indices, frames=300, fps=30.0, label="REAL", content_sha256=HASHES[0])


@pytest.mark.parametrize("content", HASHES[:100])
def test_a_clip_of_dfdc_gives_ten_real_or_three_fake_frames(content):
    real = indices(DFDC, content_sha256=content)
    fake = indices(DFDC, label="FAKE", content_sha256=content)
    assert (len(real), len(fake)) == (10, 3)
    assert {b - a for a, b in pairwise(real)} == {30}
    assert {b - a for a, b in pairwise(fake)} == {100}
    assert indices(DFDC, label=None, content_sha256=content) == real


def test_each_video_starts_at_an_offset_of_its_own_and_keeps_it():
    starts = {indices(DFDC, content_sha256=h)[0] for h in HASHES}
    assert starts == set(range(30))
    assert indices(DFDC, content_sha256=HASHES[5]) == indices(DFDC, content_sha256=HASHES[5])


def test_no_label_has_more_than_its_share_of_first_frames():
    fakes = [indices(DFDC, label="FAKE", content_sha256=h) for h in HASHES]
    assert sum(0 in f for f in fakes) / sum(map(len, fakes)) < 0.02


@pytest.mark.parametrize(("phase", "first"), [(0, 0), (7, 7), (37, 7)])
def test_a_phase_is_where_every_video_starts(phase, first):
    sampling = Sampling(stride=Stride(real=30, fake=30), phase=phase)
    for content in HASHES[:10]:
        assert indices(sampling, content_sha256=content) == list(range(first, 300, 30))


def test_a_clip_shorter_than_its_stride_gives_one_frame():
    for sampling in (
        DFDC,
        Sampling(every_s=10.0),
        Sampling(stride=Stride(real=30, fake=30), phase=29),
    ):
        for frames in (1, 2, 29):
            for content in HASHES[:20]:
                [index] = indices(sampling, frames=frames, content_sha256=content)
                assert 0 <= index < frames


@pytest.mark.parametrize("sampling", [DFDC, Sampling(frames=8), Sampling(every_s=1.0)])
def test_no_frames_give_no_indices(sampling):
    assert indices(sampling, frames=0) == []


def test_frames_are_the_middles_of_equal_stretches():
    assert indices(Sampling(frames=4), frames=80, fps=30.0) == [10, 30, 50, 70]
    assert indices(Sampling(frames=32), frames=5, fps=30.0) == [0, 1, 2, 3, 4]
    assert indices(Sampling(frames=4), frames=80, fps=None) == [10, 30, 50, 70]


def test_frames_are_never_sparser_than_one_in_two_seconds():
    minute = indices(Sampling(frames=8), frames=1800, fps=30.0)
    assert len(minute) == 30
    assert {b - a for a, b in pairwise(minute)} == {60}


def test_spread_frames_ascend_without_repeats_and_within_the_promise():
    for seed in range(300):
        rng = random.Random(seed)
        count, frames, fps = rng.randint(1, 64), rng.randint(1, 5000), rng.uniform(5, 60)
        found = indices(Sampling(frames=count), frames=frames, fps=fps)
        assert len(found) >= min(count, frames)
        assert found == sorted(set(found))
        assert 0 <= found[0] <= found[-1] < frames
        sparsest = max((b - a for a, b in pairwise(found)), default=0)
        widest = max(sparsest, 2 * found[0], 2 * (frames - 1 - found[-1]))
        assert widest <= SPARSEST_S * fps + 1  # an index is a whole frame


@pytest.mark.parametrize(
    ("every", "fps", "step"),
    [(1.0, 30.0, 30), (1.0, 29.97, 30), (0.5, 24.0, 12), (0.001, 30.0, 1), (1.0, None, 25)],
)
def test_every_so_many_seconds_follows_the_frame_rate(every, fps, step):
    found = indices(Sampling(every_s=every, phase=0), fps=fps)
    assert found == list(range(0, 300, step))
