import json

import pytest
from pydantic import ValidationError

from dfscan.schemas.fingerprint import differences, json_hash
from dfscan.schemas.recipe import Crop, Detector, FaceRecipe, NetworkInput, Sampling, Stride

RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=30, fake=100)))


@pytest.mark.parametrize(
    ("text", "real", "fake"),
    [
        (30, 30, 30),
        ("30", 30, 30),
        ("real=30,fake=100", 30, 100),
        (" fake = 100, real = 30", 30, 100),
        ({"real": 5, "fake": 7}, 5, 7),
    ],
)
def test_a_stride_is_one_number_or_one_a_label(text, real, fake):
    stride = Stride.model_validate(text)
    assert (stride.of("REAL"), stride.of("FAKE"), stride.of(None)) == (real, fake, real)


@pytest.mark.parametrize("text", ["real=30", "real=30,fake=100,junk", "real=30,fakes=100"])
def test_a_stride_that_is_half_given_says_how_to_write_it(text):
    with pytest.raises(ValidationError, match="real=30,fake=100"):
        Stride.model_validate(text)


@pytest.mark.parametrize("text", [0, "0", "often", True, "real=30,fake=0"])
def test_a_stride_that_is_no_count_is_refused(text):
    with pytest.raises(ValidationError):
        Stride.model_validate(text)


@pytest.mark.parametrize("given", [{}, {"frames": 8, "every_s": 1.0}, {"stride": 3, "frames": 8}])
def test_exactly_one_way_of_sampling_is_set(given):
    with pytest.raises(ValidationError, match="exactly one of stride, frames, every"):
        Sampling.model_validate(given)


def test_the_hash_of_a_recipe_does_not_change_between_releases():
    assert RECIPE.legacy_hash() == "a0f6ee4de5de9a3d"


def test_the_hash_survives_a_file():
    assert FaceRecipe.model_validate(json.loads(RECIPE.model_dump_json())).hash() == RECIPE.hash()


def test_equal_recipes_hash_equally_however_they_were_written():
    other = FaceRecipe.model_validate(
        {"crop": {"context": 0.6}, "sampling": {"stride": "real=30,fake=100"}}
    )
    assert other.hash() == RECIPE.hash()


@pytest.mark.parametrize(
    "change",
    [
        {"sampling": Sampling(stride=Stride(real=30, fake=99))},
        {"sampling": Sampling(stride=Stride(real=30, fake=100), phase=0)},
        {"detector": Detector(min_face=40)},
        {"crop": Crop(quality=94)},
        {"crop": Crop(face_size=224)},
        {"input": NetworkInput(size=256)},
        {"input": NetworkInput(size=256, margin=0.2)},
    ],
)
def test_anything_that_changes_pixels_changes_the_hash(change):
    assert RECIPE.model_copy(update=change).hash() != RECIPE.hash()


def test_a_fingerprint_ignores_the_order_of_keys():
    assert json_hash({"a": 1, "b": 2}) == json_hash({"b": 2, "a": 1})


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError):
        Crop.model_validate({"contxt": 0.6})


@pytest.mark.parametrize(
    ("size", "pixels"),
    [((320, 240), 20), ((1280, 720), 40), ((1080, 1920), 60), ((3840, 2160), 60)],
)
def test_the_smallest_face_follows_the_short_side(size, pixels):
    assert Detector().min_face_px(*size) == pixels
    assert Detector(min_face=33).min_face_px(*size) == 33


def test_differences_name_the_key_and_both_values():
    old = {"crop": {"context": 0.6, "codec": "jpeg"}, "gone": 1}
    new = {"crop": {"context": 0.3, "codec": "jpeg"}}
    assert differences(old, new) == ["crop.context: 0.6 → 0.3", "gone: 1 → null"]
    assert differences(old, old) == []
