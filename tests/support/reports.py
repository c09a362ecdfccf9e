"""Verdict files made by hand, with as much in a row as a report looks at."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfscan import storage
from dfscan.schemas.records import VERDICT_SCHEMA, Custody, FrameScore, Verdict, to_table
from dfscan.verdicts.provenance import with_records

MODEL = "ab" * 32
CUSTODY = Custody("0.1.0", "r" * 16, "c" * 16, (MODEL,), "PyAV 14", "cpu", "float32", {})
SLOPE, OFFSET = 2.0, -1.0
"""The calibration of these verdicts: logit of p_fake = SLOPE · score + OFFSET."""

BOX = (10.0, 10.0, 40.0, 50.0)


def p_fake(score: float) -> float:
    return 1 / (1 + math.exp(-(SLOPE * score + OFFSET)))


def verdict(name: str, scores: dict[int, list[float]] | None = None, **changes: Any) -> Verdict:
    """A row; ``scores``: track → the score of each of its faces, a face every 0.5 s."""
    values: dict[str, Any] = {
        "video_id": name, "uri": f"/gone/{name}", "bytes": 1000, "version": "1", "status": "ok",
        "verdict": None, "reason": None, "score_raw": None, "p_fake": None, "calibrated": True,
        "threshold": 0.5, "custody": CUSTODY, "content_sha256": "0" * 64, "width": 320,
        "height": 320, "fps": 10.0, "duration_s": 10.0, "scanned_at": 1.7e9,
    }  # fmt: skip
    if scores:
        every = [score for own in scores.values() for score in own]
        mean = sum(every) / len(every)
        values |= {
            "score_raw": mean, "p_fake": p_fake(mean),
            "verdict": "FAKE" if p_fake(mean) >= 0.5 else "REAL",
            "frames": tuple(
                FrameScore(i * 0.5, 5 * i, track, BOX, score)
                for track, own in scores.items()
                for i, score in enumerate(own)
            ),
            "tracks": tuple(
                {
                    "track_id": track, "first_s": 0.0, "last_s": 1.0, "faces": len(own),
                    "score_raw": sum(own) / len(own), "p_fake": p_fake(sum(own) / len(own)),
                    "box": list(BOX),
                }
                for track, own in scores.items()
            ),
        }  # fmt: skip
    return Verdict(**(values | changes))


def write_verdicts(path: Path, rows: Iterable[Verdict]) -> Path:
    """A verdict file that says how it was made."""
    record = {
        CUSTODY.config_hash: {"models": [MODEL], "threshold": 0.5, "recipe": {"sampling": {}}}
    }
    storage.commit_table(
        path, with_records(to_table(rows, VERDICT_SCHEMA), json.loads(json.dumps(record)))
    )
    return path
