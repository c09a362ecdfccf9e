import random

from dfscan.corpora import detect_layout, list_videos, open_source
from dfscan.corpora.base import connected

REAL = "original_sequences/youtube/c23/videos"
FAKE = "manipulated_sequences/Deepfakes/c23/videos"
ACTORS = "original_sequences/actors/raw/videos"
DETECTION = "manipulated_sequences/DeepFakeDetection/raw/videos"
FILES = [
    *(f"{REAL}/{n}.mp4" for n in ("000", "003", "519")),
    *(f"{FAKE}/{n}.mp4" for n in ("000_003", "003_000", "519_515")),
    f"{ACTORS}/01__walking.mp4",
    f"{DETECTION}/01_02__walking__ABC123.mp4",
]


def refs_of(tree):
    refs = list_videos([tree("ffpp", dict.fromkeys(FILES))]).videos
    return {r.video_id.removeprefix("ffpp/"): r for r in refs}


def test_the_tree_is_recognised_by_its_folders(tree):
    assert detect_layout(open_source(tree("ffpp", dict.fromkeys(FILES)))).name == "ffpp"
    assert (
        detect_layout(
            open_source(tree("manipulated_sequences", {"X/c23/videos/1_2.mp4": None}))
        ).name
        == "ffpp"
    )


def test_labels_and_attributes_come_from_the_folders(tree):
    refs = refs_of(tree)
    fake, real = refs[f"{FAKE}/519_515.mp4"], refs[f"{REAL}/519.mp4"]
    assert (fake.label, real.label) == ("FAKE", "REAL")
    assert fake.attributes == {"manipulation": "Deepfakes", "compression": "c23"}
    assert real.attributes == {"origin": "youtube", "compression": "c23"}
    assert fake.part == "manipulated_sequences/Deepfakes"


def test_the_original_of_a_fake_is_its_target_at_the_same_compression(tree):
    refs = refs_of(tree)
    assert refs[f"{FAKE}/519_515.mp4"].original == f"ffpp/{REAL}/519.mp4"
    assert (
        refs[f"{DETECTION}/01_02__walking__ABC123.mp4"].original == f"ffpp/{ACTORS}/01__walking.mp4"
    )
    assert refs[f"{REAL}/519.mp4"].original is None


def test_a_pair_its_reverse_and_both_originals_are_one_group(tree):
    refs = refs_of(tree)
    pair = [f"{REAL}/000.mp4", f"{REAL}/003.mp4", f"{FAKE}/000_003.mp4", f"{FAKE}/003_000.mp4"]
    assert len({refs[p].group for p in pair}) == 1
    assert refs[f"{FAKE}/519_515.mp4"].group not in {refs[p].group for p in pair}


def test_actors_are_not_the_youtube_clips_of_the_same_number(tree):
    files = [f"{REAL}/01.mp4", f"{ACTORS}/01__walking.mp4"]
    actor, youtube = list_videos([tree("same_number", dict.fromkeys(files))]).videos
    assert youtube.group != actor.group
    refs = refs_of(tree)
    fake = refs[f"{DETECTION}/01_02__walking__ABC123.mp4"]
    assert fake.group == refs[f"{ACTORS}/01__walking.mp4"].group


def test_connected_joins_exactly_what_a_chain_of_pairs_joins():
    for seed in range(30):
        rng = random.Random(seed)
        nodes = [f"{i:02}" for i in range(20)]
        pairs = [tuple(rng.choices(nodes, k=rng.choice([1, 2, 3]))) for _ in range(12)]
        expected = {n: {n} for pair in pairs for n in pair}
        for _ in nodes:
            for pair in pairs:
                joined = set().union(*(expected[n] for n in pair))
                for n in joined:
                    expected[n] = joined
        assert connected(pairs) == {n: min(whole) for n, whole in expected.items()}


def test_masks_are_no_clips(tree):
    source = tree(
        "ff",
        {
            "manipulated_sequences/Deepfakes/masks/videos/000_003.mp4": None,
            "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4": None,
        },
    )
    assert [r.attributes["compression"] for r in list_videos([source]).videos] == ["c23"]


def test_pictures_in_a_clips_folder_are_of_that_clip(tree):
    images = [
        "original_sequences/youtube/c23/images/519/0001.png",
        "original_sequences/youtube/c23/images/000/0001.png",
        "manipulated_sequences/Deepfakes/c23/images/519_515/0001.png",
    ]
    refs = {r.video_id: r for r in list_videos([tree("ff", dict.fromkeys(images))]).videos}
    real, other, fake = (refs[f"ff/{i}"] for i in images)
    assert fake.original == real.video_id
    assert fake.group == real.group != other.group
