import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dfscan.rendering.robustness_plot import robustness


def row(condition: str, **changes: Any) -> dict[str, Any]:
    return {
        "condition": condition,
        "auc": 0.9,
        "auc_interval": [0.8, 0.95],
        "auc_videos": 10,
        "compared": 10,
        "real_to_fake": 0,
        "fake_to_real": 0,
        "to_uncertain": 0,
        "to_none": 0,
        "score_change_median": 0.0,
    } | changes


def pixels(*rows: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(robustness(rows, "Robustness of a model"))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((abs(picture - np.array(colour)).max(axis=-1) < 12).mean())


def test_flips_are_drawn_as_long_as_they_are_many() -> None:
    none = pixels(row("original"), row("crf40"))
    few = pixels(row("original"), row("crf40", real_to_fake=1, fake_to_real=9))
    many = pixels(row("original"), row("crf40", real_to_fake=9, fake_to_real=1))
    red = [share(p, (0x99, 0x10, 0x1F)) for p in (none, few, many)]
    assert red[0] < red[1] < red[2] / 3
    green = [share(p, (0x5F, 0xBF, 0x8F)) for p in (none, many, few)]
    assert green[0] < green[1] < green[2] / 3


def test_a_line_a_condition() -> None:
    two, five = (pixels(*(row(f"c{i}") for i in range(n))) for n in (2, 5))
    assert five.shape[0] > two.shape[0] + 100
    assert five.shape[1] == two.shape[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"auc": None, "auc_interval": None},
        {"auc_interval": None},
        {"auc": 0.2, "auc_interval": [0.1, 0.4]},
        {"auc": None, "auc_interval": None, "score_change_median": None, "compared": 0},
    ],
)
def test_what_is_not_known_leaves_a_gap(changes: dict[str, Any]) -> None:
    known = pixels(row("original"), row("border"))
    gaps = pixels(row("original"), row("border", **changes))
    assert (known != gaps).any()
    without = {"auc": None, "auc_interval": None} | changes
    assert pixels(row("original", **without), row("border", **without)).shape[1] == known.shape[1]
