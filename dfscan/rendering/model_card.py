"""The model card: the model, its training data, its metrics and its limits.

The card contains only :class:`Facts` and states which are missing. It starts with the metadata
block that model hubs read; the model's owner must add a license.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml
from pydantic import Field, ValidationError

from dfscan.errors import UsageError
from dfscan.evaluation.metrics import SCALARS, TITLES
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import FaceRecipe, Sampling
from dfscan.scoring.calibration import Calibration

FEW_GROUPS: Final = 20
"""With fewer groups, bootstrap intervals are too narrow."""

_RULES: Final = {
    "f1": "the best F1",
    "youden": "the largest difference of true- and false-positive rate (Youden's J)",
}
_HUB_METRICS: Final = {"auc": "roc_auc", "accuracy": "accuracy", "f1": "f1"}


class DatasetFacts(Strict):
    """A face dataset; ``attributes`` counts its training faces: attribute → value → faces."""

    name: str
    videos: int | None = None
    faces: int | None = None
    groups: int | None = None
    attributes: dict[str, dict[str, int]] = Field(default_factory=dict)


class AuditFacts(Strict):
    """One audit of the split, and its finding in words.

    ``passed`` is None if there was too little data.
    """

    name: str
    passed: bool | None = None
    found: str


class SplitFacts(Strict):
    """The split.

    ``sides``: side → name of a count → count, as in ``metrics.json``; ``identities``: how it was
    verified that no person is on two sides, None if it was not.
    """

    sides: dict[str, dict[str, int]]
    how: str | None = None
    seed: int | None = None
    audits: tuple[AuditFacts, ...] = ()
    identities: str | None = None


class TrainingFacts(Strict):
    """The training: one mapping per phase, in order, and the shared settings."""

    phases: tuple[dict[str, Any], ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
    best_epoch: int | None = None
    chosen_by: str | None = None


class ThresholdFacts(Strict):
    """The operating point: as logit and as ``p_fake``, its rule, and the rows it was chosen on."""

    logit: float | None = None
    p_fake: float | None = None
    rule: str | None = None
    chosen_on: str | None = None


class Facts(Strict):
    """The content of a card; every field may be absent.

    ``results``: side (``validation``, ``test``, …) → ``by_frame`` or ``by_video`` → the result of
    :func:`dfscan.evaluation.metrics.measure`. ``breakdown``: attribute → value → the result of
    :func:`dfscan.evaluation.metrics.by_attribute`. ``notes``: warnings of the training, one
    sentence each.
    """

    name: str | None = None
    dfscan: str | None = None
    backbone: str | None = None
    parameters: int | None = None
    pretrained: bool | None = None
    model_sha256: str | None = None
    recipe: FaceRecipe | None = None
    datasets: tuple[DatasetFacts, ...] = ()
    split: SplitFacts | None = None
    training: TrainingFacts | None = None
    results: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    breakdown: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    threshold: ThresholdFacts | None = None
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()


def model_card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown.

    :param facts: keys and values of :class:`Facts`.
    :raises UsageError: a fact is unknown or has a value that is not allowed.
    """
    try:
        known = Facts.model_validate(facts)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(k) for k in first["loc"])
        raise UsageError(f"model card: {where}: got {first['input']!r}; {first['msg']}") from None
    sections = {
        "": _model(known),
        "Data": _data(known),
        "Split": _split(known.split),
        "From pixels to numbers": _recipe(known.recipe),
        "Training": _training(known.training),
        "Figures": _figures(known),
        "Threshold": _threshold(known.threshold),
        "Calibration": _calibration(known.calibration),
        "Limits": "\n".join(f"- {limit}" for limit in _limits(known)),
    }
    text = "\n\n".join(
        f"## {title}\n\n{body}" if title else body for title, body in sections.items()
    )
    return f"---\n{_front_matter(known)}---\n\n{text}\n"


def _front_matter(facts: Facts) -> str:
    shown = {
        name
        for sides in facts.results.values()
        for figures in sides.values()
        for key, name in _HUB_METRICS.items()
        if figures.get(key) is not None
    }
    content: dict[str, Any] = {
        "library_name": "dfscan",
        "pipeline_tag": "image-classification",
        "tags": ["deepfake-detection", "dfscan", *([facts.backbone] if facts.backbone else [])],
    }
    if shown:
        content["metrics"] = sorted(shown)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _model(facts: Facts) -> str:
    size = "" if facts.parameters is None else f", {facts.parameters:,} parameters"
    began = {
        True: "Training started from pretrained weights.",
        False: "Training started from random weights.",
        None: "Its initial weights are not recorded.",
    }[facts.pretrained]
    lines = [
        f"# {facts.name or 'A deepfake detector'}",
        f"One logit for each picture of a face, higher = more fake. Backbone: "
        f"{_known(facts.backbone)}{size}. {began}",
        f"dfscan: {_known(facts.dfscan)}. SHA-256 of the model file: {_code(facts.model_sha256)}.",
    ]
    return "\n\n".join(lines)


def _data(facts: Facts) -> str:
    if not facts.datasets:
        return "Its training datasets are not recorded."
    rows = [[d.name, _count(d.groups), _count(d.videos), _count(d.faces)] for d in facts.datasets]
    lines = [_table(["dataset", "groups", "videos", "faces"], rows)]
    for data in facts.datasets:
        for attribute, values in data.attributes.items():
            counts = ", ".join(f"{value} {count:,}" for value, count in values.items())
            lines.append(f"{data.name}, training faces by {attribute}: {counts}.")
    return "\n\n".join(lines)


def _split(split: SplitFacts | None) -> str:
    if split is None:
        return "The split is not recorded."
    names = list(dict.fromkeys(name for counts in split.sides.values() for name in counts))
    rows = [[side, *(_count(c.get(n)) for n in names)] for side, c in split.sides.items()]
    how = f"Split: {split.how}" if split.how else "The rule of the split is not recorded"
    seed = "" if split.seed is None else f" (seed {split.seed})"
    lines = [
        _table(["side", *(n.replace("_", " ") for n in names)], rows),
        f"{how}{seed}.",
        f"Identities: {split.identities or 'not checked'}.",
    ]
    said = {True: "passed", False: "FAILED", None: "not possible"}
    audits = [f"- {a.name}: {said[a.passed]}, {a.found}" for a in split.audits]
    lines.append("\n".join(audits) or "No audit of the split is recorded.")
    return "\n\n".join(lines)


def _recipe(recipe: FaceRecipe | None) -> str:
    if recipe is None:
        return "The recipe of its faces is not recorded."
    detector, crop = recipe.detector, recipe.crop
    if detector.name == "none":
        found = "each picture whole, no detector"
    else:
        smallest = "auto" if detector.min_face == "auto" else f"{detector.min_face} pixels"
        found = (
            f"{detector.name} ({detector.weights}), smallest face {smallest}, score at least "
            f"{detector.min_score:g}"
        )
    largest = f"{crop.face_size} pixels" if crop.face_size else f"at most {crop.max_size} pixels"
    stored = (
        f"{crop.codec} {crop.quality} {crop.subsampling}" if crop.codec == "jpeg" else crop.codec
    )
    lines = [
        f"- Frames: {_sampling(recipe.sampling)}",
        f"- Faces: {found}",
        f"- Stored crop: the box and {crop.context:g} of it on each side, {largest}, {stored}",
    ]
    if recipe.input is not None:
        given = recipe.input
        lines.append(
            f"- Network's input: the box and {given.margin:g} of it on each side, made square by "
            f"{given.square}, {given.size} × {given.size} pixels, {given.interpolation}; mean "
            f"{_numbers(given.mean)}, standard deviation {_numbers(given.std)}"
        )
    return "\n".join([*lines, f"- Hash of the recipe: {_code(recipe.hash())}"])


def _sampling(sampling: Sampling) -> str:
    if sampling.stride is not None:
        real, fake = sampling.stride.real, sampling.stride.fake
        text = f"one in {real}"
        text += (
            "" if real == fake else f" of real and unlabelled videos, one in {fake} of fake ones"
        )
    elif sampling.frames is not None:
        text = f"{sampling.frames} spread evenly over each video"
    else:
        text = f"one in {sampling.every_s:g} s"
    start = "an offset from each video's hash" if sampling.phase == "hash" else sampling.phase
    return f"{text}, starting at {start}, sampling {sampling.mode}"


def _training(training: TrainingFacts | None) -> str:
    if training is None:
        return "The training is not recorded."
    lines = []
    if training.phases:
        names = list(dict.fromkeys(name for phase in training.phases for name in phase))
        rows = [
            [str(number), *(_value(phase.get(n)) for n in names)]
            for number, phase in enumerate(training.phases, start=1)
        ]
        lines.append(_table(["phase", *(n.replace("_", " ") for n in names)], rows))
    else:
        lines.append("Its phases are not recorded.")
    settings = [f"- {k.replace('_', ' ')}: {_value(v)}" for k, v in training.settings.items()]
    lines += ["\n".join(settings)] if settings else []
    chosen = f", chosen by {training.chosen_by}" if training.chosen_by else ""
    lines.append(f"The weights are those of epoch {_known(training.best_epoch)}{chosen}.")
    return "\n\n".join(lines)


def _figures(facts: Facts) -> str:
    if not facts.results:
        return "No metrics are recorded."
    lines = []
    for side, ways in facts.results.items():
        names = [way.replace("_", " ") for way in ways]
        counts = [
            [name, *(_count(figures.get(name)) for figures in ways.values())]
            for name in ("reals", "fakes")
        ]
        rows = [[TITLES[n], *(_figure(figures, n) for figures in ways.values())] for n in SCALARS]
        lines += [f"### {side}", _table(["", *names], counts + rows)]
        lines += [f"{_decided(name, f)}" for name, f in zip(names, ways.values(), strict=True)]
    if not any(_is_test(side) for side in facts.results):
        lines.append("There are no metrics of a test side.")
    lines += [_breakdown(name, values) for name, values in facts.breakdown.items()]
    return "\n\n".join(lines)


def _figure(figures: Mapping[str, Any], name: str) -> str:
    """``0.912 (0.880 to 0.941)``; a dash if undefined."""
    value = figures.get(name)
    if value is None:
        return "–"
    bounds = (figures.get("intervals") or {}).get(name)
    return f"{value:.3f} ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else f"{value:.3f}"


def _decided(way: str, figures: Mapping[str, Any]) -> str:
    """The confusion matrix and the settings of the intervals, in words."""
    text = f"{way.capitalize()}: "
    counts = figures.get("confusion")
    if counts:
        reals, fakes = counts["tn"] + counts["fp"], counts["fn"] + counts["tp"]
        text += (
            f"from logit {_number(figures.get('threshold'))}, {counts['tp']:,} of {fakes:,} "
            f"fakes and {counts['fp']:,} of {reals:,} reals are called FAKE. "
        )
    how = figures.get("bootstrap") or {"note": "no intervals"}
    if how.get("note"):
        return f"{text}There are {how['note']}."
    return text + (
        f"In brackets: {100 * how['level']:g} % intervals from {how['resamples']:,} resamples of "
        f"{how['groups']:,} groups, {how['left_out']:,} without both classes left out."
    )


def _breakdown(attribute: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    names = ("auc", "tpr_at_1pct_fpr", "recall")
    rows = [
        [value, _count(f.get("fakes")), f.get("against", "–"), *(_figure(f, n) for n in names)]
        for value, f in values.items()
    ]
    header = [attribute, "fakes", "against", *(TITLES[n] for n in names)]
    return f"### by {attribute}\n\n{_table(header, rows)}"


def _threshold(threshold: ThresholdFacts | None) -> str:
    if threshold is None:
        return "No threshold is recorded."
    points = {"logit": threshold.logit, "p_fake": threshold.p_fake}
    given = " and ".join(f"{_number(v)} on {name}" for name, v in points.items() if v is not None)
    rule = threshold.rule
    if rule is None:
        how = "How it was chosen is not recorded."
    elif rule in _RULES:
        how = f"It was chosen for {_RULES[rule]}"
    elif rule.startswith("fpr="):
        share = float(rule.removeprefix("fpr="))
        how = f"It was chosen to call at most {100 * share:g} % of the reals FAKE"
    else:
        how = f"It was chosen by {rule}"
    if rule is not None:
        how += f", on {threshold.chosen_on}." if threshold.chosen_on else "."
    return f"FAKE from {given or 'a point that is not recorded'} on. {how}"


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return (
            "None: `p_fake` is the bare sigmoid of the score and no probability; without a "
            "threshold of the user's own every verdict is UNCERTAIN."
        )
    frames = calibration.frames_median
    number = "not recorded" if frames is None else f"{frames:g} faces per video (median)"
    return "\n\n".join(
        [
            f"`p_fake = sigmoid({calibration.scale:.4g} × score {calibration.offset:+.4g})`, "
            f"fitted on {calibration.reals:,} real and {calibration.fakes:,} fake videos "
            "(Platt's method).",
            "It is valid only for",
            "\n".join(
                [
                    f"- the sampling: {_sampling(calibration.sampling)}",
                    f"- the aggregation: {calibration.aggregation} of a video's logits",
                    f"- the number of frames: {number}",
                    f"- the prior: a share of fakes of {100 * calibration.prior:g} %",
                ]
            ),
        ]
    )


def _limits(facts: Facts) -> list[str]:
    """The limits that follow from the facts, one or two sentences each."""
    split = facts.split
    limits = [
        f"Identities: {split.identities}."
        if split and split.identities
        else "Identities were not checked: a person may be on both sides of the split, and the "
        "metrics may be too optimistic."
    ]
    limits.append(
        _seen(facts, "manipulation", "it was not trained on other kinds of fakes")
        or "The manipulations of its fakes are not recorded."
    )
    limits.append(
        _seen(facts, "compression", "it was not trained on other compressions")
        or "The compressions in training are not recorded."
    )
    if not any(_is_test(side) for side in facts.results):
        limits.append(
            "There are no metrics of a test side. Metrics of the side that chose the epoch or the threshold "
            "are too optimistic."
        )
    limits.append(
        "It is not calibrated: scores rank videos by suspicion, but are not probabilities."
        if facts.calibration is None
        else "It is calibrated only for material like its validation side; on other material, "
        "with another sampling, number of frames or share of fakes, `p_fake` is wrong."
    )
    few = _fewest_groups(facts)
    if few is not None and few < FEW_GROUPS:
        limits.append(
            f"Intervals come from as few as {few} groups and are too narrow: with fewer than "
            f"{FEW_GROUPS}, treat them as a lower bound of the uncertainty."
        )
    if split:
        limits += [
            f"The audit “{a.name}” FAILED: {a.found}." for a in split.audits if a.passed is False
        ]
    return limits + [
        f"{note[:1].upper()}{note[1:]}." for note in (n.rstrip(".") for n in facts.notes)
    ]


def _seen(facts: Facts, attribute: str, others: str) -> str | None:
    values = [v for d in facts.datasets for v in d.attributes.get(attribute, {})]
    if not values:
        return None
    return f"{attribute.capitalize()}s in training: {', '.join(dict.fromkeys(values))}; {others}."


def _fewest_groups(facts: Facts) -> int | None:
    used = [
        figures["bootstrap"]["groups"]
        for ways in facts.results.values()
        for figures in ways.values()
        if figures.get("bootstrap") and not figures["bootstrap"].get("note")
    ]
    return min(used, default=None)


def _is_test(side: str) -> bool:
    return side.lower().startswith("test")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _known(value: object) -> str:
    return "not recorded" if value is None else str(value)


def _code(text: str | None) -> str:
    return "not recorded" if text is None else f"`{text}`"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def _value(value: object) -> str:
    """A setting's value as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value)
    return str(value)
