import io
import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.special import expit

from dfscan.errors import UsageError
from dfscan.evaluation.metrics import Logits, Truth, binary_metrics
from dfscan.rendering import plots

SHADE = (248, 238, 209)  # of the false-positive rates up to 1 %


def simulated(rows: int = 400, shift: float = 2.0, seed: int = 0) -> tuple[Logits, Truth]:
    rng = np.random.default_rng(seed)
    fake = rng.random(rows) < 0.4
    return rng.normal(size=rows) + shift * fake - 1, fake


def history(epochs: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "epoch": n, "phase": 1 if n < 3 else 2, "lr": 1e-3 / n, "train_loss": 1 / n,
            "val_frame_log_loss": 1.2 / n,
            "val_frame_auc": 1 - 0.5 / n, "val_video_auc": 1 - 0.4 / n,
        }
        for n in range(1, epochs + 1)
    ]  # fmt: skip


def pixels(png: bytes) -> npt.NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def near(picture: npt.NDArray[np.int64], colour: Any, within: int = 12) -> npt.NDArray[np.bool_]:
    """(H, W) where the picture has about this colour, given as 0 to 255 or as matplotlib's."""
    if isinstance(colour, str):
        colour = 255 * np.array(to_rgb(colour))
    found: npt.NDArray[np.bool_] = (abs(picture - np.asarray(colour)) <= within).all(axis=2)
    return found


def every_plot() -> dict[str, bytes]:
    logits, fake = simulated()
    sides = {"by frame": (logits, fake), "by video": (logits[:100], fake[:100])}
    return {
        "roc": plots.roc(sides),
        "precision_recall": plots.precision_recall(sides),
        "reliability": plots.reliability_diagram(expit(3 * logits), fake, expit(logits)),
        "confusion": plots.confusion(binary_metrics(logits, fake)["confusion"]),
        "scores": plots.score_histogram(logits, fake, 0.3),
        "learning": plots.learning_curves(history(), best_epoch=4),
    }


def test_every_plot_is_a_picture_and_the_same_each_time() -> None:
    before = dict(mpl.rcParams)
    first, second = every_plot(), every_plot()
    for name, png in first.items():
        assert min(pixels(png).shape[:2]) > 400, name
        assert png == second[name], name
    assert len(set(first.values())) == len(first)
    assert dict(mpl.rcParams) == before


def test_nothing_but_figures_is_used() -> None:
    unwanted = {"matplotlib.pyplot", "torch", "ray"}
    code = f"import dfscan.rendering.plots, sys; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_two_classes_differ_without_colour() -> None:
    light, dark = (np.dot((0.299, 0.587, 0.114), to_rgb(c)) for c in (plots.REAL, plots.FAKE))
    assert light - dark > 0.3


def test_the_shaded_part_of_the_roc_ends_at_one_percent() -> None:
    widths = []
    for rows in (900, 9000):  # reals for one in 540 and in 5,400: three decades, and four
        logits, fake = simulated(rows)
        shaded = near(pixels(plots.roc({"by frame": (logits, fake)})), SHADE, 3)
        columns = np.flatnonzero(shaded.any(axis=0))
        assert columns.min() > shaded.shape[1] / 2
        widths.append(columns.max() - columns.min())
    assert widths[1] / widths[0] == pytest.approx((2 / 4) / (1 / 3), abs=0.1)


def test_sides_with_one_class_are_left_out_and_none_at_all_is_an_error() -> None:
    logits, fake = simulated()
    one = (logits, np.zeros_like(fake))
    both = (logits, fake)
    for plot in (plots.roc, plots.precision_recall):
        assert plot({"a": both, "b": one}) == plot({"a": both})
        with pytest.raises(UsageError, match="needs reals and fakes; got one class only: b"):
            plot({"b": one})


def test_scores_are_green_where_reals_are_and_red_where_fakes_are() -> None:
    fake = np.arange(200) >= 100
    logits = np.where(fake, 4.0, -4.0) + np.linspace(-1, 1, 200)
    picture = pixels(plots.score_histogram(logits, fake, 0.0))
    legend = picture.shape[0] // 2  # bars of both reach below the legend
    green, red = (
        np.flatnonzero(near(picture, c)[legend:].any(axis=0)) for c in (plots.REAL, plots.FAKE)
    )
    assert green.max() < red.min()


def test_a_class_that_is_missing_is_no_error_in_a_histogram() -> None:
    logits, fake = simulated()
    picture = pixels(plots.score_histogram(logits[~fake], fake[~fake]))
    assert near(picture, plots.REAL).any()
    assert not near(picture, plots.FAKE).any()


def test_what_has_no_verdict_has_a_column_of_its_own() -> None:
    row = {"REAL": 0, "FAKE": 0, "UNCERTAIN": 0, "none": 0}
    picture = pixels(plots.truth_by_verdict({"REAL": row | {"none": 9}, "FAKE": row | {"FAKE": 4}}))
    dark = near(picture, (8, 48, 107), 3)
    height, width = dark.shape
    assert dark[: height // 2, 3 * width // 4 :].mean() > 0.4
    assert dark[: height // 2, : width // 2].mean() < 0.05
    assert dark[height // 2 :, 3 * width // 4 :].mean() < 0.05
    assert dark[height // 2 :, width // 4 : width // 2].mean() > 0.1


def test_a_full_cell_of_the_confusion_matrix_is_dark_and_an_empty_one_white() -> None:
    picture = pixels(plots.confusion({"tn": 50, "fp": 0, "fn": 0, "tp": 7}))
    dark = near(picture, (8, 48, 107), 3)
    rows, columns = dark.nonzero()
    middle = ((rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2)
    quarters = [
        dark[rows.min() : middle[0], columns.min() : middle[1]],
        dark[rows.min() : middle[0], middle[1] : columns.max()],
        dark[middle[0] : rows.max(), columns.min() : middle[1]],
        dark[middle[0] : rows.max(), middle[1] : columns.max()],
    ]
    shares = [q.mean() for q in quarters]
    assert min(shares[0], shares[3]) > 0.8
    assert max(shares[1], shares[2]) < 0.05


def test_learning_curves_leave_out_what_was_not_measured() -> None:
    rows = [r | {"val_frame_auc": None, "val_video_auc": None} for r in history()]
    whole, less = (pixels(plots.learning_curves(r)).shape[0] for r in (history(), rows))
    assert whole / less == pytest.approx(3 / 2, abs=0.1)
    with pytest.raises(UsageError, match="the history has no epoch"):
        plots.learning_curves([])


def test_one_epoch_is_enough_for_curves() -> None:
    assert pixels(plots.learning_curves(history(1), best_epoch=1)).size


def test_the_best_epoch_is_marked_where_it_is() -> None:
    third, fourth, fifth = (pixels(plots.learning_curves(history(), best)) for best in (3, 4, 5))
    below = third.shape[0] // 2  # the words above the first panel move with the line
    near_by, far = (
        np.flatnonzero((abs(other - third)[below:].max(axis=2) > 60).any(axis=0))
        for other in (fourth, fifth)
    )
    assert near_by.min() == far.min()
    assert near_by.max() == pytest.approx((far.min() + far.max()) / 2, abs=3)
