"""Fingerprints, and the defaults that they leave out."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from dfscan.schemas import recipe
from dfscan.schemas.fingerprint import Strict, changes_to, fingerprint
from dfscan.schemas.recipe import Detector, FaceRecipe, Sampling, Stride
from dfscan.schemas.scoring import Evidence, ScoringInputs
from dfscan.verdicts.provenance import records

RECIPE = FaceRecipe(sampling=Sampling(stride=Stride(real=30, fake=100)))

DEFAULTS: dict[tuple[type[Strict], int], dict[str, Any]] = {
    (recipe.Stride, 1): {"real": 30, "fake": 30},
    (recipe.Sampling, 1): {
        "mode": "exact", "stride": None, "frames": None, "every_s": None, "phase": "hash",
    },
    (recipe.Detector, 1): {
        "name": "mtcnn", "weights": "facenet-pytorch-2.5.3", "min_face": "auto",
        "thresholds": [0.6, 0.7, 0.7], "factor": 0.709, "min_score": 0.95, "max_faces": None,
    },
    (recipe.Crop, 1): {
        "context": 0.6, "max_size": 512, "face_size": None, "codec": "jpeg", "quality": 95,
        "subsampling": "4:4:4", "interpolation": "bicubic",
    },
    (recipe.NetworkInput, 1): {
        "margin": 0.3, "square": "stretch", "interpolation": "bilinear",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0],
    },
    (recipe.FaceRecipe, 1): {
        "box_convention": "xyxy-displayed", "detector": {}, "crop": {}, "input": None,
    },
    (recipe.ExtractionInputs, 1): {
        "box_convention": "xyxy-displayed", "detector": {}, "crop": {}, "input": None,
        "boxes_from": "detected",
    },
    (Evidence, 1): {"frames": 4, "face_px": 32.0, "sharpness": 0.004, "errors": 2.0},
    (ScoringInputs, 1): {
        "min_frames": 1, "aggregation": "mean", "evidence": {}, "precision": "float32",
        "at_fpr": None, "prevalence": None, "triage": None, "altered": None,
    },
}  # fmt: skip
"""Per class and revision. A changed value is a changed meaning of every fingerprint that leaves it
out: raise ``revision`` of the class and add its new defaults here. A new key only needs a line."""


@pytest.mark.parametrize(("kind", "revision"), DEFAULTS)
def test_a_changed_default_is_another_revision(kind, revision):
    """Defaults of nested models are those of their own classes."""
    found = {}
    for name, field in kind.model_fields.items():
        if not field.is_required():
            value = field.get_default(call_default_factory=True)
            found[name] = (
                value.model_dump(mode="json", exclude_defaults=True)
                if isinstance(value, Strict)
                else json.loads(json.dumps(value))
            )
    assert kind.revision == revision
    assert found == DEFAULTS[kind, revision]


def test_a_fingerprint_does_not_change_between_releases():
    assert fingerprint(RECIPE) == "ea13acde9dbef2fe"


class Later(Detector):
    later: int = 3


Later.__name__ = "Detector"


class Revised(Detector):
    revision = 2


def test_a_new_key_at_its_default_changes_no_fingerprint():
    assert fingerprint(Later(min_face=40)) == fingerprint(Detector(min_face=40))
    assert fingerprint(Later(later=4)) != fingerprint(Detector())


def test_a_raised_revision_of_a_part_changes_the_fingerprint_of_the_whole():
    assert fingerprint(RECIPE.model_copy(update={"detector": Revised()})) != fingerprint(RECIPE)


class Config(Strict):
    size: int = 3
    recipe: Detector = Detector()
    added: str = Field("none")


def test_a_stored_configuration_without_later_keys_is_the_same():
    assert changes_to({"size": 3, "recipe": {"min_score": 0.95}}, Config()) == []
    assert changes_to({"size": 3}, Config(added="some")) == ['added: "none" → "some"']
    assert changes_to({"size": 4}, Config(), exclude={"added"}) == ["size: 4 → 3"]
    assert changes_to({"size": 3, "unknown": 1}, Config(), include={"size"}) == [
        "unknown: 1 → null"
    ]


def test_the_hashes_of_earlier_records_are_those_that_they_stand_under():
    folder = Path(__file__).parents[1] / "fixtures" / "v1"
    checked = 0
    for name in ("verdicts.parquet", "ensemble.parquet", "quick.parquet"):
        for stored, record in records(folder / name).items():
            inputs = ScoringInputs.model_validate(record)
            assert inputs.legacy_hash() == stored
            assert inputs.legacy_record() == record
            assert fingerprint(inputs) != stored
            checked += 1
    assert checked == 3
    header = json.loads((folder / "faces/dataset.json").read_text())
    assert FaceRecipe.model_validate(header["recipe"]).legacy_hash() == header["recipe_hash"]
