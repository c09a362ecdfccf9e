"""A recorded verdict against the same verdict made again: pure functions over rows as dicts."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dfscan.schemas.records import entries_to_dict
from dfscan.schemas.status import SUCCEEDED


@dataclass(frozen=True)
class Difference:
    """``what`` of a verdict differs: the value in the file, and the one found now."""

    what: str
    recorded: Any
    found: Any


@dataclass(frozen=True)
class Checked:
    """What became of one verdict: ``outcome`` is ``agrees``, ``differs`` or ``unchecked``.

    ``reason`` says why it could not be checked. ``notes``: what ran then and runs now.
    """

    video_id: str
    outcome: str
    reason: str | None = None
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


BOX_PX: Final = 0.1
"""Pixels that two boxes of one face may lie apart."""
SHARPNESS: Final = 1e-3
"""What boxes that far apart may make of a face's sharpness."""
FLOAT32: Final = 2e-7
"""Relative error of numbers that were stored with single precision."""
HALF: Final = {"bfloat16": 0.25, "float16": 0.03}
"""How far two logits of one half precision may lie apart: batches round each in their own way.

Of the networks tried, the one with the largest weights (logits of 10 and more, 300 faces) came 0.03
apart in bfloat16. Rounded weights move all logits the same way, so a mean over frames is no closer."""
FLOAT16_IN_FLOAT32: Final = 0.1
"""The same for float16 made again in float32, where there is no GPU; that network came 0.06 apart."""

_INPUT: Final = ("content_sha256", "bytes", "status")
_ASIDE: Final = frozenset(
    (
        *("video_id", "uri", "label", "version", "gone"),  # said of a video, not found in it
        *("scanned_at", "elapsed_s", "custody"),  # of the run
        *("frames", "top_frames_s", "reason"),  # compared in their own way
    )
)
_ADDED: Final = frozenset(("frames_sampled", "median_sharpness", "logits"))
"""Null in rows of earlier versions."""
_RUN: Final = ("dfscan", "decoder", "device", "precision")


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart: logits by ``score``, and what follows from them accordingly.

    :param scale: the calibration's slope; 1 without one.
    """

    score: float
    scale: float = 1.0

    def of(self, name: str) -> float:
        """What a column's numbers may differ by; 0: by no more than their rounding."""
        return {
            "score_raw": self.score,
            "logits": self.score,
            "median_sharpness": SHARPNESS,
            "llr": self.score * self.scale,
            "p_fake": self.score * self.scale / 4,  # a sigmoid's steepest slope
            "box": BOX_PX,
            "face_px": BOX_PX,
        }.get(name, 0.0)

    def within(self, recorded: str, found: str) -> "Tolerance":
        """This, or what the rounding of these precisions takes."""
        if recorded not in HALF:
            return self
        rounding = HALF[recorded] if found == recorded else FLOAT16_IN_FLOAT32
        return replace(self, score=max(self.score, rounding))


def compare(
    recorded: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance
) -> list[Difference]:
    """Where two rows of a video differ; of a file that is another by now, that alone.

    Columns that only one of the rows has are not compared. The reason is compared where it is the
    verdict's; of a failed video it is a message of the decoder.
    """
    if recorded["content_sha256"] != found["content_sha256"]:
        return [Difference(n, recorded[n], found[n]) for n in _INPUT if recorded[n] != found[n]]
    differing = [
        difference
        for name in recorded
        if name in found and name not in _ASIDE and not (name in _ADDED and recorded[name] is None)
        for difference in _walk(name, name, recorded[name], found[name], tolerance)
    ]
    if found["status"] in SUCCEEDED and recorded["reason"] != found["reason"]:
        differing.append(Difference("reason", recorded["reason"], found["reason"]))
    differing += _frames(recorded, found, tolerance)
    for name in ("recipe_hash", "models"):
        old, new = recorded["custody"][name], found["custody"][name]
        if old != new:
            differing.append(Difference(f"custody.{name}", old, new))
    return differing


def changed_since(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """``["torch 2.9.0 → 2.9.1"]``: what ran then and runs now; it may explain differences."""
    old, new = recorded["custody"], found["custody"]
    pairs = [(name, old[name], new[name]) for name in _RUN]
    then, now = entries_to_dict(old["libraries"]), entries_to_dict(new["libraries"])
    pairs += [(name, then.get(name), now.get(name)) for name in sorted(then | now)]
    return [f"{name} {a or 'none'} → {b or 'none'}" for name, a, b in pairs if a != b]


def _frames(
    recorded: Mapping[str, Any], found: Mapping[str, Any], tolerance: Tolerance
) -> Iterator[Difference]:
    old, new = recorded["frames"] or [], found["frames"] or []
    indices = [f["frame_index"] for f in old], [f["frame_index"] for f in new]
    if indices[0] != indices[1]:
        yield Difference("frames.frame_index", *indices)
        return
    yield from _walk("frames", "frames", old, new, tolerance)
    if not _same_top(recorded["top_frames_s"], found["top_frames_s"], new, tolerance.score):
        yield Difference("top_frames_s", recorded["top_frames_s"], found["top_frames_s"])


def _same_top(
    recorded: list[float] | None, found: list[float] | None, frames: list[Any], score: float
) -> bool:
    """Whether the highest frames are the same, but for the order of scores that count as equal."""
    if recorded == found or not recorded or not found:
        return recorded == found
    highest: dict[float, float] = {}
    for frame in frames:
        when = frame["pts_s"]
        highest[when] = max(frame["score_raw"], highest.get(when, -math.inf))
    return (
        len(recorded) == len(found)
        and len(set(recorded)) == len(recorded)
        and all(
            a in highest and abs(highest[a] - highest[b]) <= 2 * score
            for a, b in zip(recorded, found, strict=True)
        )
    )


def _walk(at: str, name: str, old: Any, new: Any, tolerance: Tolerance) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() & new.keys():
            if key in _ADDED and old[key] is None:
                continue
            yield from _walk(f"{at}.{key}", key, old[key], new[key], tolerance)
    elif _are_rows(old) and _are_rows(new) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _walk(f"{at}[{number}]", name, a, b, tolerance)
    elif not _same(old, new, tolerance.of(name)):
        yield Difference(at, old, new)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _same(old: Any, new: Any, within: float) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        pairs = zip(old, new, strict=False)
        return len(old) == len(new) and all(_same(a, b, within) for a, b in pairs)
    if isinstance(old, float) and isinstance(new, float):
        if math.isnan(old) or math.isnan(new):
            return math.isnan(old) and math.isnan(new)
        return old == new or abs(old - new) <= within + FLOAT32 * max(abs(old), abs(new))
    return bool(old == new)
