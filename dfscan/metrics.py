"""Metrics over logits and truth. Pure functions; scikit-learn does the arithmetic."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

Logits = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]


def binary_metrics(logits: Logits, fake: Truth) -> dict[str, Any]:
    """AUC, log loss and accuracy (FAKE from logit 0 on) of (N,) logits against (N,) truth.

    ``auc`` is None, and ``note`` says why, where one class is missing: half a ROC curve is none.
    """
    fakes = int(fake.sum())
    counts: dict[str, Any] = {"reals": len(fake) - fakes, "fakes": fakes}
    if not len(fake):
        return counts | {
            "auc": None,
            "log_loss": None,
            "accuracy": None,
            "note": "nothing held out",
        }
    both = 0 < fakes < len(fake)
    result = counts | {
        "auc": float(roc_auc_score(fake, logits)) if both else None,
        "log_loss": float(log_loss(fake, expit(logits), labels=[False, True])),
        "accuracy": float(accuracy_score(fake, logits >= 0)),
    }
    if not both:
        only = "FAKE" if fakes else "REAL"
        result["note"] = f"the held-out side has only {only}: no AUC"
    return result


def by_video(
    video_ids: Sequence[str], logits: Logits, fake: Truth
) -> tuple[list[str], Logits, Truth]:
    """Faces → videos: the mean logit and the truth of each video, sorted by id."""
    names, inverse = np.unique(np.asarray(video_ids, dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(inverse, minlength=len(names))
    means = np.bincount(inverse, weights=logits, minlength=len(names)) / np.maximum(counts, 1)
    truth = np.zeros(len(names), dtype=bool)
    truth[inverse] = fake
    return names.tolist(), means, truth
