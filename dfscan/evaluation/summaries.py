"""Evaluate verdicts against labels. Pure functions."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from dfscan.errors import ConfigError, did_you_mean
from dfscan.evaluation.metrics import Judged, collapsed, compare, log_losses, measured, rows_of
from dfscan.evaluation.verdict_data import Truth, Videos
from dfscan.schemas.status import LABELS
from dfscan.scoring.aggregation import logit_of

REAL, FAKE = LABELS
UNCERTAIN: Final = "UNCERTAIN"
NONE: Final = "none"
VERDICTS: Final = (REAL, FAKE, UNCERTAIN, NONE)
"""Columns of the table of label against verdict; ``none``: no verdict."""

COMPUTED: Final = ("part", "resolution", "face_size", "people")
"""Computed attributes that every corpus has for the breakdown."""
MISSING: Final = "(none)"
"""The value of a missing attribute."""

FEW_GROUPS: Final = 20
_VALUES: Final = 40
_REASONS: Final = 50
_MANY_PEOPLE: Final = 5
_RESOLUTIONS: Final = (360, 480, 720, 1080)
_FACE_SIZES: Final = (40, 80, 160)

Verdicts = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap."""

    resamples: int
    seed: int


@dataclass(frozen=True)
class Case:
    """Videos with their labels and verdicts, (N,) str or None."""

    videos: Videos
    truth: Truth
    verdicts: Verdicts
    threshold: float | None

    @property
    def labelled(self) -> Mask:
        """(N,) whether the video has a label."""
        return np.isin(self.truth.labels, LABELS)

    @property
    def scored(self) -> Mask:
        """(N,) whether the video has a label and a score."""
        return self.labelled & np.isfinite(self.videos.log_odds)

    @property
    def fake(self) -> Mask:
        """(N,) whether the label is FAKE."""
        found: Mask = self.truth.labels == FAKE
        return found

    def judged(self, rows: npt.NDArray[Any]) -> Judged:
        """Select videos by (N,) bool or by indices."""
        return _judged(self.videos, self.verdicts, rows, self.fake[rows])

    def faces(self) -> tuple[Judged, npt.NDArray[Any]]:
        """Every scored face of the labelled videos, and its group.

        A face is FAKE from its video's threshold, and undecided if there is none. If probabilities
        are unknown, the scores rank the faces.
        """
        frames = self.videos.frames
        mine = self.labelled[frames.video]
        owner, log_odds = frames.video[mine], frames.log_odds[mine]
        limits = self.videos.thresholds[owner]
        if self.threshold is not None:
            limits = np.full(len(owner), self.threshold)
        # Compare in single precision, in which a verdict's threshold is stored.
        called = expit(log_odds).astype(np.float32) >= limits.astype(np.float32)
        known = np.isfinite(log_odds)
        judged = Judged(
            scores=log_odds if known.all() else frames.scores[mine],
            fake=self.fake[owner],
            log_odds=log_odds,
            llr=frames.llr[mine],
            called=called,
            decided=known & np.isfinite(limits),
        )
        return judged, self.truth.group_numbers[owner]


def _judged(videos: Videos, verdicts: Verdicts, rows: npt.NDArray[Any], fake: Mask) -> Judged:
    own, log_odds = verdicts[rows], videos.log_odds[rows]
    return Judged(
        scores=log_odds,
        fake=fake,
        log_odds=log_odds,
        llr=videos.llr[rows],
        called=own == FAKE,
        decided=np.isin(own, LABELS),
    )


def verdicts_of(videos: Videos, threshold: float | None) -> Verdicts:
    """The recorded verdicts, or those by a given threshold on ``p_fake``.

    The comparison uses the precision of the file, so that the recorded threshold reproduces the
    recorded verdicts.

    :returns: (N,) REAL, FAKE, UNCERTAIN or None.
    """
    if threshold is None:
        return np.array(videos.verdicts, object)
    above = videos.p_fake.astype(np.float32) >= np.float32(threshold)
    found = np.where(above, FAKE, REAL).astype(object)
    found[~np.isfinite(videos.log_odds)] = None
    return found


def evaluate(case: Case, names: Sequence[str], how: Resampling) -> dict[str, Any]:
    """All metrics of a case, ready for JSON. ``videos``: counts of all, ``labelled``, ``scored``
    and so on.

    ``truth_by_verdict``: label → verdict → number of videos, including every video.
    ``without_verdict`` and ``uncertain``: by status and reason. ``by_video`` and ``by_frame``: see
    :func:`dfscan.evaluation.metrics.measured`; ranking and probability metrics use all scored rows,
    decision metrics those that are REAL or FAKE. ``competition``: the log loss of the DFDC
    competition, in which videos without a score count as 0.5 at a cost of ln 2; it is not a metric
    of the model alone. ``breakdown``: name → value → metrics by video.
    """
    judged, groups = case.faces()
    scored = case.scored
    videos = case.judged(scored)
    here = case.truth.group_numbers[scored]
    result: dict[str, Any] = {
        "videos": {
            "rows": len(case.videos.ids),
            **case.truth.counts,
            "reals": int((case.labelled & ~case.fake).sum()),
            "fakes": int(case.fake.sum()),
            "scored": int(scored.sum()),
            "decided": int(videos.decided.sum()),
            "groups": len(np.unique(case.truth.group_numbers[case.labelled])),
        },
        "truth_by_verdict": truth_by_verdict(case, np.ones(len(scored), bool)),
        "without_verdict": _reasons(case, _is(case.verdicts, None)),
        "uncertain": _reasons(case, _is(case.verdicts, UNCERTAIN)),
        "by_video": measured(videos, here, how.resamples, how.seed),
        "by_frame": measured(judged, groups, how.resamples, how.seed),
        "competition": competition(videos, int(case.labelled.sum())),
        "breakdown": {name: _breakdown(case, name, how) for name in names},
    }
    return result | {"notes": _notes(case, videos, result, names)}


def truth_by_verdict(case: Case, rows: Mask) -> dict[str, dict[str, int]]:
    """Label → verdict → number of videos; without a label: ``unlabelled``."""
    counts = Counter(
        zip(case.truth.labels[rows].tolist(), case.verdicts[rows].tolist(), strict=True)
    )
    names = {REAL: REAL, FAKE: FAKE, "unlabelled": None}
    found = {
        name: {v: counts[label, None if v == NONE else v] for v in VERDICTS}
        for name, label in names.items()
    }
    if not any(found["unlabelled"].values()):
        del found["unlabelled"]
    return found


def _is(verdicts: Verdicts, verdict: str | None) -> Mask:
    return np.array([v == verdict for v in verdicts.tolist()], bool)


def _reasons(case: Case, rows: Mask) -> list[dict[str, Any]]:
    """Counts of videos by status and kind of reason, most frequent first."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for place in np.flatnonzero(rows).tolist():
        status = case.videos.statuses[place] or NONE
        kinds = _kinds(case.videos.reasons[place], case.verdicts[place])
        label = case.truth.labels[place] or "unlabelled"
        for kind in kinds:
            counts.setdefault((status, kind), Counter())[label] += 1
    rank = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    shown = rank[:_REASONS]
    rest = sum((c for _, c in rank[_REASONS:]), Counter[str]())
    if rest:
        rare = f"{len(rank) - _REASONS:,} rarer reasons"
        shown.append((("…", rare), rest))
    return [
        {"status": status, "reason": kind, "videos": c.total(), **dict(sorted(c.items()))}
        for (status, kind), c in shown
    ]


def _kinds(reason: str | None, verdict: str | None) -> list[str]:
    """The reasons for no decision, without numbers.

    For UNCERTAIN, ``"few_frames (3 of 32 …); small_faces (21 pixels)"`` gives both names, each
    once.
    """
    if verdict != UNCERTAIN:
        return [kind_of(reason or NONE)]
    names = (one.partition(" (")[0].strip() for one in (reason or NONE).split("; "))
    return list(dict.fromkeys(name for name in names if name))


def competition(videos: Judged, labelled: int) -> dict[str, Any]:
    """The DFDC competition's log loss, with 0.5 for videos without a score."""
    filled = labelled - len(videos.fake)
    total = float(log_losses(videos.log_odds, videos.fake).sum()) + filled * math.log(2)
    return {"log_loss": total / labelled, "filled_in": filled, "videos": labelled}


def _breakdown(case: Case, name: str, how: Resampling) -> dict[str, Any]:
    """Value → its counts of label and verdict, and the metrics of its fakes.

    Compared with the reals of the value if there are any, otherwise with all reals.
    """
    values, order = values_of(case, name)
    every = np.array(values, object)
    labelled, scored = case.labelled, case.scored
    counts = Counter(every[labelled].tolist())
    frequent = {value for value, _ in counts.most_common(_VALUES)}
    scored_values: list[str | None] = every[scored].tolist()
    judged, groups = case.judged(scored), case.truth.group_numbers[scored]
    found = {}
    for value in order:
        if value not in frequent:
            continue
        mine = every[scored] == value
        rows, against = mine, "reals alone"
        if judged.fake[mine].any():
            rows, against = rows_of(value, scored_values, judged.fake)
        told = measured(judged.part(rows), groups[rows], how.resamples, how.seed)
        table = truth_by_verdict(case, labelled & (every == value))
        found[value] = {"truth_by_verdict": table, "against": against, **told}
    return found


def values_of(case: Case, name: str) -> tuple[list[str], list[str]]:
    """Each video's value of an attribute, and the labelled videos' distinct values in order.

    :raises ConfigError: no video has such an attribute.
    """
    check_names(case.truth, [name])
    order: Iterable[str] = ()
    if name == "part":
        values = [part or MISSING for part in case.truth.parts]
    elif name == "resolution":
        sides = case.videos.sizes.min(axis=1)
        values, order = _binned(sides, _RESOLUTIONS, "{}–{}p", "below {}p", "from {}p")
    elif name == "face_size":
        bounds = _FACE_SIZES
        values, order = _binned(
            case.videos.face_px, bounds, "{}–{} px", "below {} px", "from {} px"
        )
    elif name == "people":
        known = [str(n) for n in range(_MANY_PEOPLE)] + [f"{_MANY_PEOPLE} or more"]
        values = [
            MISSING if n < 0 else known[min(n, _MANY_PEOPLE)] for n in case.videos.people.tolist()
        ]
        order = known
    else:
        values = [each.get(name, MISSING) for each in case.truth.attributes]
    there = {v for v, mine in zip(values, case.labelled.tolist(), strict=True) if mine}
    wanted = list(order) or sorted(there - {MISSING})
    return values, [v for v in (*wanted, MISSING) if v in there]


def _binned(
    numbers: npt.NDArray[np.float64], bounds: Sequence[int], between: str, below: str, above: str
) -> tuple[list[str], list[str]]:
    """The range of each number, and the ranges' names in ascending order."""
    middle = [between.format(a, b - 1) for a, b in pairwise(bounds)]
    names = [below.format(bounds[0]), *middle, above.format(bounds[-1])]
    places = np.searchsorted(bounds, np.nan_to_num(numbers), side="right")
    known = np.isfinite(numbers).tolist()
    return [names[p] if k else MISSING for p, k in zip(places.tolist(), known, strict=True)], names


def check_names(truth: Truth, names: Sequence[str]) -> None:
    """Refuse names of attributes that no video has.

    :raises ConfigError: the message lists the existing ones.
    """
    attributes = sorted({name for each in truth.attributes for name in each})
    allowed = [*COMPUTED, *attributes]
    for name in names:
        if name not in allowed:
            where = (
                "" if attributes else " (these videos have no attributes; --labels can add some)"
            )
            raise ConfigError(f"by: got {name!r}; {did_you_mean(name, allowed, show=20)}{where}")


def compare_with(
    case: Case, other: Videos, places: Mapping[int, int], how: Resampling
) -> dict[str, Any]:
    """Two models on the same videos, see :func:`dfscan.evaluation.metrics.compare`.

    :param places: index in the case → index of the same video in ``other``. :returns: counts of
        labelled videos scored by ``both``, ``only_first``, ``only_second`` and ``neither``.
        ``first`` and ``second`` are the metrics on videos scored by both, ``difference`` the
        first's minus the second's.
    """
    known = np.flatnonzero(case.labelled).tolist()
    scored = case.scored
    ours = {a for a in known if scored[a]}
    theirs = {a for a in known if a in places and np.isfinite(other.log_odds[places[a]])}
    both = sorted(ours & theirs)
    mine = np.array(both, np.int64)
    same = np.array([places[a] for a in both], np.int64)
    groups, fake = case.truth.group_numbers[mine], case.fake[mine]
    first = case.judged(mine)
    second = _judged(other, verdicts_of(other, case.threshold), same, fake)
    return {
        "both": len(both),
        "only_first": len(ours - theirs),
        "only_second": len(theirs - ours),
        "neither": len(known) - len(ours | theirs),
        "first": measured(first, groups, how.resamples, how.seed),
        "second": measured(second, groups, how.resamples, how.seed),
        "difference": compare(first, second, groups, how.resamples, how.seed),
    }


def same_videos(first: Videos, second: Videos) -> tuple[dict[int, int], int]:
    """Index in one → index in the other: by ``video_id``, else by content if it is unique.

    :returns: the indices, and the number of videos with the same name but different content, which
        are not matched.
    """
    by_id = {name: place for place, name in enumerate(second.ids)}
    by_content: dict[str, list[int]] = {}
    for place, content in enumerate(second.contents):
        if content is not None:
            by_content.setdefault(content, []).append(place)
    mine = Counter(first.contents)
    names = set(first.ids)
    found: dict[int, int] = {}
    changed = 0
    for place, (name, content) in enumerate(zip(first.ids, first.contents, strict=True)):
        other = by_id.get(name)
        if other is None:
            alike = by_content.get(content or "", [])
            if len(alike) == 1 and mine[content] == 1 and second.ids[alike[0]] not in names:
                found[place] = alike[0]
        elif content and second.contents[other] and content != second.contents[other]:
            changed += 1
        else:
            found[place] = other
    return found, changed


def _notes(
    case: Case, videos: Judged, result: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """Warnings for the reader of the metrics."""
    notes = list(case.truth.notes)
    scored = case.scored
    if not scored.any():
        notes.append("no labelled video has a score: see the reasons")
    raw = int((scored & ~case.videos.calibrated).sum())
    if raw:
        notes.append(
            f"{raw:,} of the {int(scored.sum()):,} scored videos come from an uncalibrated model: its "
            "scores are used as log-odds in log loss, calibration error and Cllr (dfscan calibrate "
            "calibrates them)"
        )
    made = result["by_video"]["bootstrap"]
    if made["note"] and scored.any():
        notes.append(f"by video: {made['note']}")
    elif 0 < made["groups"] < FEW_GROUPS:
        notes.append(
            f"{made['groups']} groups of related videos are few: the intervals are too narrow"
        )
    if result["by_video"].get("note") and scored.any():
        notes.append(f"by video: {result['by_video']['note']}")
    notes += _about_share(case, videos)
    if "full" in case.videos.looks and "quick" in case.videos.looks:
        notes.append("some videos were scored by a quick pass, others by a full one")
    if result["by_frame"]["log_loss"] is None and result["by_frame"]["reals"]:
        notes.append("no probabilities by frame: the verdicts do not contain the map from scores")
    limits = set(case.videos.thresholds[scored & np.isfinite(case.videos.thresholds)].tolist())
    limit = case.threshold if case.threshold is not None else min(limits, default=None)
    if limit is not None and (case.threshold is not None or len(limits) == 1):
        told = collapsed(videos.log_odds, logit_of(limit), videos.fake)
        notes += [f"by video: {told}"] if told else []
    for name in names:
        if name in COMPUTED and any(name in each for each in case.truth.attributes):
            notes.append(
                f"{name} is computed here and the labels' column {name} is ignored (give it "
                "another name to break figures down by it)"
            )
        count = len(values_of(case, name)[1])
        if count > _VALUES:
            notes.append(f"{name} has {count:,} values: the {_VALUES} most frequent are shown")
    return notes


def _about_share(case: Case, videos: Judged) -> list[str]:
    """A warning if ``p_fake`` assumes a share of fakes that differs from the data's."""
    known = np.isfinite(videos.llr)
    if not len(videos.fake) or not known.all() or not case.videos.calibrated[case.scored].all():
        return []
    prior = float(np.median(expit(videos.log_odds - videos.llr)))
    share = float(videos.fake.mean())
    if abs(prior - share) < 0.1:
        return []
    return [
        f"p_fake assumes {prior:.0%} fakes, but {share:.0%} of these videos are fake: log loss and "
        "calibration error are affected, Cllr is not (dfscan score --prevalence)"
    ]


def kind_of(reason: str) -> str:
    """A reason without its numbers: ``"not done after 120 s"`` → ``"not done after … s"``."""
    return re.sub(r"\d[\d,.]*", "…", reason)
