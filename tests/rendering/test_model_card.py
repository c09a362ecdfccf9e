import re
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from dfscan.errors import UsageError
from dfscan.evaluation.metrics import by_attribute, measure
from dfscan.rendering.model_card import Facts, model_card
from dfscan.schemas.recipe import FaceRecipe, NetworkInput, Sampling
from dfscan.scoring.calibration import Calibration

SAMPLING = Sampling.model_validate({"stride": "real=30,fake=100"})


def measured(rows: int = 200, groups: int = 50, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    fake = rng.random(rows) < 0.5
    logits = rng.normal(size=rows) + 2 * fake - 1
    return measure(logits, fake, np.arange(rows) % groups, threshold=0.25, resamples=100)


def facts(**changes: Any) -> dict[str, Any]:
    side = {"groups": 40, "videos": 300, "faces": 3000, "real_faces": 1000, "fake_faces": 2000}
    values = {
        "name": "Faces of 2026",
        "dfscan": "0.1.0",
        "backbone": "efficientnet_b4",
        "parameters": 17_550_409,
        "pretrained": True,
        "model_sha256": "ab12",
        "recipe": FaceRecipe(sampling=SAMPLING, input=NetworkInput(size=380)),
        "datasets": [
            {
                "name": "ffpp", "videos": 400, "faces": 4000, "groups": 60,
                "attributes": {
                    "manipulation": {"Deepfakes": 1500, "Face2Face": 500},
                    "compression": {"c23": 3000},
                },
            }
        ],
        "split": {
            "sides": {"train": side, "validation": side | {"faces": 500}},
            "how": "by group, an original with all its fakes",
            "seed": 7,
            "audits": [{"name": "equal files on two sides", "passed": True, "found": "none"}],
        },
        "training": {
            "phases": [
                {"train": "head", "epochs": 3, "optimizer": "adam", "lr": 1e-3},
                {"train": "all", "epochs": 10, "optimizer": "adam", "lr": 1e-5, "schedule": "poly"},
            ],
            "settings": {"batch_size": 64, "loss": {"name": "bce", "label_smoothing": 0.01}},
            "best_epoch": 9,
            "chosen_by": "validation log loss by frame",
        },
        "results": {
            "validation": {"by_frame": measured(), "by_video": measured(seed=1)},
            "test": {"by_video": measured(seed=2)},
        },
        "threshold": {"logit": 0.25, "p_fake": 0.5, "rule": "fpr=0.01", "chosen_on": "validation"},
        "calibration": Calibration(
            scale=1.5, offset=-0.25, reals=40, fakes=60, sampling=SAMPLING, frames_median=10
        ),
    }  # fmt: skip
    return values | changes


def hub_data(card: str) -> dict[str, Any]:
    """The metadata as Hugging Face's own library reads it."""
    return {k: v for k, v in vars(ModelCard(card).data).items() if v is not None}


def test_the_card_is_read_by_the_model_hub() -> None:
    text = model_card(facts())
    data = hub_data(text)
    assert data["library_name"] == "dfscan"
    assert data["tags"] == ["deepfake-detection", "dfscan", "efficientnet_b4"]
    assert data["metrics"] == ["accuracy", "f1", "roc_auc"]
    assert "license" not in yaml.safe_load(text.split("---\n")[1])


def test_every_figure_stands_there_with_its_interval() -> None:
    values = facts()
    text = model_card(values)
    found = values["results"]["test"]["by_video"]
    low, high = found["intervals"]["auc"]
    assert f"| AUC | {found['auc']:.3f} ({low:.3f} to {high:.3f}) |" in text
    c = found["confusion"]
    assert f"from logit 0.25, {c['tp']} of {c['tp'] + c['fn']} fakes" in text
    assert f"{c['fp']} of {c['tn'] + c['fp']} reals are called FAKE" in text
    assert "100 resamples of 50 groups" in text


def test_data_split_and_training_are_told() -> None:
    text = model_card(facts())
    for line in (
        "| ffpp | 60 | 400 | 4,000 |",
        "training faces by manipulation: Deepfakes 1,500, Face2Face 500.",
        "| validation | 40 | 300 | 500 | 1,000 | 2,000 |",
        "Split: by group, an original with all its fakes (seed 7).",
        "- equal files on two sides: passed, none",
        "Frames: one in 30 of real and unlabelled videos, one in 100 of fake ones",
        "made square by stretch, 380 × 380 pixels",
        "| phase | train | epochs | optimizer | lr | schedule |",
        "| 1 | head | 3 | adam | 0.001 | – |",
        "| 2 | all | 10 | adam | 1e-05 | poly |",
        "- loss: name bce, label smoothing 0.01",
        "those of epoch 9, chosen by validation log loss by frame.",
        "efficientnet_b4, 17,550,409 parameters. Training started from pretrained weights.",
    ):
        assert line in text


def test_threshold_and_calibration_say_what_they_are_bound_to() -> None:
    text = model_card(facts())
    assert "FAKE from 0.25 on logit and 0.5 on p_fake on." in text
    assert "to call at most 1 % of the reals FAKE, on validation." in text
    assert "`p_fake = sigmoid(1.5 × score -0.25)`, fitted on 40 real and 60 fake videos" in text
    bound = text.split("It is valid only for")[1].split("## Limits")[0]
    for line in ("one in 30 of real", "mean of", "10 faces per video (median)", "fakes of 50 %"):
        assert line in bound


def limits(**changes: Any) -> str:
    return model_card(facts(**changes)).split("## Limits")[1]


def test_limits_follow_from_the_facts() -> None:
    text = limits()
    assert "Identities were not checked" in text
    assert (
        "Manipulations in training: Deepfakes, Face2Face; it was not trained on other kinds" in text
    )
    assert "Compressions in training: c23; it was not trained on other compressions" in text
    assert "test side" not in text
    assert "too narrow" not in text
    split = facts()["split"] | {"identities": "none on two sides, by face similarity"}
    assert "Identities: none on two sides, by face similarity." in limits(split=split)
    assert "There are no metrics of a test side" in limits(results={})
    assert "not calibrated: scores rank videos" in limits(calibration=None)
    few = {"test": {"by_video": measured(groups=8)}}
    assert "as few as 8 groups and are too narrow" in limits(results=few)
    assert "- The scores barely vary." in limits(notes=["the scores barely vary."])
    failed = {"name": "equal files", "passed": False, "found": "3 on two sides"}
    assert "“equal files” FAILED: 3 on two sides." in limits(
        split=facts()["split"] | {"audits": [failed]}
    )


def test_what_is_absent_is_said_to_be_absent() -> None:
    text = model_card({})
    for section in ("Data", "Split", "From pixels to numbers", "Training", "Figures", "Threshold"):
        body = text.split(f"## {section}\n")[1].split("##")[0]
        assert re.search("not recorded|No .* recorded", body), section
    assert "Backbone: not recorded" in text
    assert "Identities were not checked" in text
    assert "The compressions in training are not recorded." in text
    assert "None: `p_fake` is the bare sigmoid" in text
    assert not re.search(r"\d", re.sub("SHA-256|1 %", "", text))
    assert "metrics" not in hub_data(text)


def test_a_figure_that_does_not_exist_is_a_dash() -> None:
    one = measure(np.array([1.0, 2.0]), np.array([True, True]), ["a", "b"])
    text = model_card(facts(results={"validation": {"by_video": one}}))
    assert "| AUC | – |" in text
    assert "| accuracy | 1.000 |" in text
    assert "There are no intervals: a class has 0 group(s)" in text


def test_manipulations_are_compared_in_a_table() -> None:
    rng = np.random.default_rng(0)
    fake = np.arange(120) >= 60
    kinds = [None] * 60 + ["Deepfakes", "Face2Face"] * 30
    found = by_attribute(kinds, rng.normal(size=120) + fake, fake)
    text = model_card(facts(breakdown={"manipulation": found}))
    assert "### by manipulation" in text
    assert f"| Deepfakes | 30 | all reals | {found['Deepfakes']['auc']:.3f} |" in text


def test_a_name_cannot_break_a_table() -> None:
    text = model_card({"datasets": [{"name": "a|b\nc", "faces": 3}]})
    assert "| a\\|b c | – | – | 3 |" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbon": "x"}, "model card: backbon: got 'x'"),
        ({"parameters": "many"}, "parameters: got 'many'"),
    ],
)
def test_a_fact_that_is_unknown_or_wrong_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_card(wrong)


def test_every_fact_may_be_absent() -> None:
    assert Facts() == Facts.model_validate({})
