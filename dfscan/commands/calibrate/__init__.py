"""``dfscan calibrate``: a model's ``p_fake`` and threshold, fitted to a user's own verdicts."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfscan import __version__, storage
from dfscan.commands.calibrate.calibration_data import (
    CalibrationData,
    describe,
    read_calibration_data,
)
from dfscan.commands.calibrate.calibration_fit import (
    Fit,
    ThresholdTarget,
    Videos,
    answers,
    fit,
    logits,
    out_of_fold,
    summary_metrics,
)
from dfscan.commands.calibrate.triage_fit import fit_triage
from dfscan.config.calibrate import CalibrateConfig
from dfscan.errors import ConfigError, OutputError
from dfscan.models.modelfile import (
    FORMAT,
    Model,
    ModelHeader,
    Triage,
    find_model,
    load_model,
    save_model,
)
from dfscan.pipeline.progress import Progress
from dfscan.scoring.calibration import MIN_PER_CLASS
from dfscan.scoring.operating_point import OperatingPoint, check_support, expected_rate


@dataclass(frozen=True)
class CalibrateResult:
    """A model file with another calibration and threshold.

    ``rows`` counts the rows of the verdict file by what became of them. ``before`` are the old
    model's figures on these videos, ``fitted`` the new one's on the very videos it was fitted on,
    ``out_of_fold`` those of fits that had not seen the video's group (null where there are too few
    groups); see :func:`dfscan.commands.calibrate.calibration_fit.summary_metrics`. ``calibration`` is null where p_fake
    stays as it was without one.
    """

    out: str
    model_sha256: str
    scored_by: str
    rows: dict[str, int]
    groups: int
    rule: str
    sampling: dict[str, Any]
    threshold: float
    threshold_logit: float
    before: dict[str, Any]
    fitted: dict[str, Any]
    out_of_fold: dict[str, Any] | None
    folds: int
    calibration: dict[str, Any] | None
    operating_point: dict[str, Any]
    notes: list[str]
    elapsed_s: float
    exit_code: int = 0


_PRIOR = 0.5


def run(config: CalibrateConfig, progress: Progress) -> CalibrateResult:
    """Fit, and write the model file with the same tensors and another header.

    :raises UsageError: the model, the verdicts, the labels or the output cannot be used, or there
        are too few videos for what was asked.
    """
    started = time.monotonic()
    out = _output(config)
    if config.model is None:
        raise ConfigError(
            "calibrate.model: no model: give MODEL, the one that VERDICTS are of",
            code="config.missing",
        )
    model = load_model(find_model(config.model))
    data = read_calibration_data(config, model)
    notes = list(data.notes)
    target = _target(config, model, data, notes)
    found = _fitted(config, data.videos, target)
    worth = _worth(model, data.videos, target, found)
    notes += _remarks(model, found, data.videos, target) + _verdict_on(worth, target)
    point = _point(target, data, worth["fitted"], model.sha256, config)
    triage = None
    if config.quick is not None:
        triage, told = fit_triage(config, model, data, found)
        notes.append(told)
    elif model.header.triage is not None:
        notes.append(
            "the new model has no triage: what key frames miss is known for the old threshold alone "
            "(--quick fits it anew)"
        )
    digest = save_model(out, model.network, _header(model.header, found, point, triage))
    for note in notes:
        progress.message(note)
    return CalibrateResult(
        out=str(out),
        model_sha256=digest,
        scored_by=model.sha256,
        rows=dict(data.rows),
        groups=len(np.unique(data.videos.groups.astype(str))),
        rule=target.rule,
        sampling=target.sampling.model_dump(mode="json", exclude_none=True),
        threshold=found.threshold,
        threshold_logit=found.logit,
        **worth,
        calibration=found.calibration.model_dump(mode="json") if found.calibration else None,
        operating_point=point.model_dump(mode="json"),
        notes=notes,
        elapsed_s=time.monotonic() - started,
    )


def _output(config: CalibrateConfig) -> storage.StoragePath:
    if config.out is None:
        raise ConfigError(
            "calibrate.out: say where the model goes, as in --out MODEL2.safetensors",
            code="config.missing",
        )
    out = storage.as_path(config.out).absolute()
    if out.suffix != ".safetensors" or storage.is_folder(out):
        raise ConfigError(
            f"calibrate.out: got {config.out!r}; must be a file that ends in .safetensors"
        )
    if storage.exists(out) and not config.overwrite:
        raise OutputError(
            f"{config.out} exists: give another --out, or --overwrite to replace it",
            code="output.exists",
        )
    return out


def _target(
    config: CalibrateConfig, model: Model, data: CalibrationData, notes: list[str]
) -> ThresholdTarget:
    """What to fit with so many videos of each class.

    :raises ConfigError: they are too few for it.
    """
    reals, fakes = data.videos.reals, data.videos.fakes
    both = min(reals, fakes) >= MIN_PER_CLASS
    if not reals:
        raise ConfigError(
            f"{config.verdicts}: {fakes:,} fakes and no reals: a threshold needs videos known to be "
            f"real (and p_fake {MIN_PER_CLASS} of each class)",
            code="evidence.too_few",
        )
    rule, rate = _rule(config, data, both, notes)
    kept = model.header.calibrated(config.aggregation, data.sampling.mode)
    if not both:
        notes.append(
            f"{reals:,} reals and {fakes:,} fakes: p_fake needs {MIN_PER_CLASS} of each, so "
            + ("the model's own calibration stays" if kept else "the model stays uncalibrated")
        )
        if kept is None and config.prevalence is not None:
            raise ConfigError(
                f"prevalence {config.prevalence}: the model has no calibration, and {reals:,} reals "
                f"with {fakes:,} fakes give none: label {MIN_PER_CLASS} of each, or leave it out",
                code="calibration.unavailable",
            )
    return ThresholdTarget(
        rule, rate, both, data.sampling, config.aggregation, kept, config.prevalence
    )


def _rule(
    config: CalibrateConfig, data: CalibrationData, both: bool, notes: list[str]
) -> tuple[str, float | None]:
    """The rule in words and, where it is one, its false-positive rate.

    :raises ConfigError: the reals cannot support it.
    """
    rule, rate = config.threshold_rule or "youden", config.share()
    if config.alert_budget is not None:
        nightly = config.videos_a_night or data.rows["rows"]
        if config.videos_a_night is None:
            notes.append(
                f"a night is taken to bring {nightly:,} videos, as many as {config.verdicts} has "
                "(--videos-a-night says otherwise)"
            )
        rate = config.alert_budget / nightly
        rule = f"alert budget: {config.alert_budget:g} of {nightly:,} videos a night"
        if rate >= 1:
            raise ConfigError(
                f"alert_budget: got {config.alert_budget:g} for {nightly:,} videos a night; must be "
                "less than these, or everything may be called FAKE"
            )
    elif rate is not None:
        rule = f"fpr={rate:g}"
    if rate is None and not both:
        videos = data.videos
        raise ConfigError(
            f"threshold rule {rule} needs {MIN_PER_CLASS} videos of each class, got {videos.reals:,} "
            f"reals and {videos.fakes:,} fakes: with reals alone give --alert-budget N or --at-fpr 0.01",
            code="evidence.too_few",
        )
    if rate is not None:
        warning = check_support(data.videos.reals, rate)
        notes += [warning] if warning else []
    return rule, rate


def _fitted(config: CalibrateConfig, videos: Videos, target: ThresholdTarget) -> Fit:
    """The fit to all of the videos.

    :raises ConfigError: no map can be fitted, or p_fake, which the threshold is compared with, is
        one number for scores on both sides of it.
    """
    found = fit(videos, target)
    if found is None:
        raise ConfigError(
            f"{config.verdicts}: no calibration can be fitted, because higher scores do not mean "
            "fakes here: are the labels right? Otherwise this model cannot judge these videos",
            code="calibration.unavailable",
        )
    values = logits(found.calibration, videos.scores, videos.people)
    called = answers(found.calibration, found.threshold, videos).called
    if not np.array_equal(called, values >= found.logit):
        raise ConfigError(
            f"{config.verdicts}: scores about the threshold (logit {found.logit:.4g}) are so large "
            "that p_fake is the same number for all: no threshold tells them apart; label "
            f"{MIN_PER_CLASS} videos of each class, so that a calibration brings p_fake nearer to 0.5"
        )
    return found


def _worth(model: Model, videos: Videos, target: ThresholdTarget, found: Fit) -> dict[str, Any]:
    """The figures of a :class:`~dfscan.commands.calibrate.CalibrateResult`."""
    prior = found.calibration.prior if found.calibration else _PRIOR
    own, threshold = target.kept, model.header.threshold
    if own is not None and own.threshold is not None:
        threshold = own.threshold
    before = summary_metrics(answers(own, threshold, videos), videos.fake, prior)
    fitted = answers(found.calibration, found.threshold, videos)
    held_out, folds = out_of_fold(videos, target)
    return {
        "before": before | {"threshold": threshold, "calibrated": own is not None},
        "fitted": summary_metrics(fitted, videos.fake, prior),
        "out_of_fold": None if held_out is None else summary_metrics(held_out, videos.fake, prior),
        "folds": folds,
    }


def _verdict_on(worth: dict[str, Any], target: ThresholdTarget) -> list[str]:
    """What a user should know before taking the new model."""
    before, unseen = worth["before"]["log_loss"], worth["out_of_fold"]
    if unseen is None:
        return ["no figures out of fold: a class has too few groups, so the others flatter"]
    if target.map and unseen["log_loss"] >= before:
        return [
            f"p_fake is not better for it: a log loss of {unseen['log_loss']:.3f} out of fold, and "
            f"of {before:.3f} before; more videos may change that"
        ]
    return []


def _remarks(model: Model, found: Fit, videos: Videos, target: ThresholdTarget) -> list[str]:
    remarks = []
    old = target.kept
    if target.rate is not None:
        share = expected_rate(videos.reals, target.rate)
        remarks.append(
            f"of new reals like these, at most about {share:.2%} will be called FAKE on average"
        )
    reals = len(np.unique(videos.groups[~videos.fake].astype(str)))
    if reals < videos.reals:
        remarks.append(
            f"the {videos.reals:,} reals are of {reals:,} groups: videos of a group are alike, so "
            "the intervals are narrower than they should be"
        )
    if not target.map and old is not None and old.sampling != target.sampling:
        remarks.append(
            f"the calibration that stays was fitted on {describe(old.sampling)}: p_fake holds for "
            "that, the threshold for the sampling of these verdicts"
        )
    if target.map and old is not None and target.prior is None and old.prior != _PRIOR:
        remarks.append(
            f"p_fake is for a prior of {_PRIOR}, and was for {old.prior:g}: --prevalence sets it"
        )
    return remarks


def _header(
    old: ModelHeader, found: Fit, point: OperatingPoint, triage: Triage | None
) -> ModelHeader:
    """The model's header with what was fitted; other ways of scoring keep what they have."""
    changes: dict[str, Any] = {
        "format": FORMAT,
        "dfscan": __version__,
        "operating_point": point,
        "triage": triage,
    }
    fitted, mode = found.calibration, point.sampling.mode
    usual = (point.aggregation, mode) == ("mean", old.recipe.sampling.mode)
    if fitted is None or usual:
        changes["threshold"] = found.threshold
    if fitted is not None and usual:
        changes["calibration"] = fitted
    elif fitted is None and not usual and old.calibration is not None:
        # A calibration without a threshold of its own would take the new one for its own.
        kept = old.calibration.threshold
        pinned = {"threshold": old.threshold if kept is None else kept}
        changes["calibration"] = old.calibration.model_copy(update=pinned)
    elif fitted is not None:
        same = old.calibrated(point.aggregation, mode)
        changes["calibrations"] = (*(c for c in old.calibrations if c is not same), fitted)
    return old.model_copy(update=changes)


def _point(
    target: ThresholdTarget,
    data: CalibrationData,
    after: dict[str, Any],
    scored_by: str,
    config: CalibrateConfig,
) -> OperatingPoint:
    false, true = after["false_positive_rate"], after["true_positive_rate"]
    return OperatingPoint(
        rule=target.rule,
        reals=data.videos.reals,
        fakes=data.videos.fakes,
        false_positive_rate=false["rate"],
        false_positive_rate_upper=false["interval"][1],
        true_positive_rate=true["rate"] if true else None,
        sampling=target.sampling,
        aggregation=target.aggregation,
        scored_by=scored_by,
        chosen_on=f"{data.rows['used']:,} of the {data.rows['rows']:,} videos of "
        f"{storage.as_path(config.verdicts).name}",
    )
