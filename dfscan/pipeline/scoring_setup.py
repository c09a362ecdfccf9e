"""From a configuration and its models to the task that scores with them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dfscan import storage
from dfscan.config.score import ScoreConfig
from dfscan.errors import ConfigError
from dfscan.models.face_scorer import FaceScorer, NamedModel
from dfscan.models.modelfile import ModelHeader, find_model, load_model
from dfscan.pipeline.inputs import make_extractor
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.score_task import ScoreTask, ScoringPass
from dfscan.schemas.fingerprint import differences, json_hash
from dfscan.schemas.recipe import SamplingMode
from dfscan.scoring.aggregation import logit_of, sigmoid
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.decision import DecisionRule, fuse_calibrations
from dfscan.scoring.redecision import record_calibrations


def record_of(task: ScoreTask) -> dict[str, Any]:
    """What a task makes verdicts with, by its ``config_hash``; see :mod:`dfscan.verdicts.provenance`."""
    models = [model.sha256 for model in task.scorer.models]
    calibrations = {"full": record_calibrations(models, task.scorer.calibrations)}
    if task.quick is not None:
        calibrations["quick"] = record_calibrations(models, [task.quick.rule.calibration])
    recipe = task.full.extractor.recipe.model_dump(mode="json")
    followed = {"recipe": recipe, "calibrations": calibrations}
    return {task.config_hash: {**task.fingerprint_inputs, **followed}}


def make_score_task(
    config: ScoreConfig, target: storage.StoragePath, progress: Progress
) -> ScoreTask:
    """The task that a configuration asks for.

    :raises UsageError: no model, or there are no GPUs where some are asked for.
    """
    return score_task_of(config, load_models(config), target, progress)


@dataclass(frozen=True)
class _Loaded:
    """A model of this run: where it is, and what its file says."""

    named: NamedModel
    header: ModelHeader


def load_models(config: ScoreConfig) -> list[_Loaded]:
    """Every model, once loaded and so known to be whole.

    :raises ModelError: one is missing or damaged. :raises ConfigError: one is given twice, or their
        faces are found or cut in different ways.
    """
    found: list[_Loaded] = []
    for given in config.model or (None,):
        path = find_model(given)
        model = load_model(path)
        loaded = _Loaded(NamedModel(path, model.sha256), model.header)
        for other in found:
            if other.named.sha256 == model.sha256:
                raise ConfigError(f"score.model: {path} and {other.named.path} are the same model")
            changed = differences(_faces_of(other.header), _faces_of(model.header))
            if changed:
                raise ConfigError(
                    f"score.model: {other.named.path} and {path} learned from faces found or cut in "
                    f"different ways ({'; '.join(changed)}): score with each and compare",
                    code="recipe.mismatch",
                )
        found.append(loaded)
    return found


def _faces_of(header: ModelHeader) -> dict[str, Any]:
    """What models that judge the same faces must share: all but the network's input and which
    frames their training took."""
    recipe = header.recipe.model_dump(mode="json", exclude={"input", "sampling"})
    return recipe | {"sampling": header.recipe.sampling.mode}


def uncalibrated(config: ScoreConfig) -> str:
    """``"the model is not calibrated"``, with what it is not calibrated for."""
    subject = "one of the models" if len(config.model) > 1 else "the model"
    ways = [w for w in (config.aggregation, config.sampling) if w and w != "mean"]
    how = f" for {' and '.join(ways)}" if ways else ""
    return f"{subject} is not calibrated{how}"


def score_task_of(
    config: ScoreConfig, models: Sequence[_Loaded], target: storage.StoragePath, progress: Progress
) -> ScoreTask:
    """The task that scores with these models; see :func:`make_score_task`."""
    header = models[0].header
    mode = config.sampling or header.recipe.sampling.mode
    recipe = header.recipe.model_copy(update={"sampling": config.select(mode)})
    calibrations = _calibrations(config, models, mode)
    calibration = fuse_calibrations(calibrations)
    threshold = _threshold(config, models, calibrations)
    decides = len(models) == 1 and header.decides(config.aggregation, mode)
    rule = DecisionRule(
        calibration=calibration,
        threshold=threshold,
        explicit_threshold=config.threshold is not None or decides,
        min_frames=config.min_frames,
        aggregation=config.aggregation,
        evidence=config.evidence,
    )
    fingerprint_inputs = {
        "recipe": recipe.legacy_hash(),
        "models": sorted(m.named.sha256 for m in models),
        "threshold": threshold,
        "forced": rule.explicit_threshold,
        "min_frames": config.min_frames,
        "aggregation": config.aggregation,
        "evidence": config.evidence.model_dump(mode="json"),
        "max_bytes": config.max_bytes,
    }
    for key in ("at_fpr", "prevalence"):  # keys that came later count only where they are set
        if getattr(config, key) is not None:
            fingerprint_inputs[key] = getattr(config, key)
    if config.computes_in() != "float32":
        fingerprint_inputs["precision"] = config.computes_in()
    quick = _quick(config, header, rule, progress) if config.triage else None
    if quick is not None:
        fingerprint_inputs["triage"] = quick.rule.threshold
    extractor = make_extractor(config, recipe, progress)
    return ScoreTask(
        full=ScoringPass("full", extractor, rule),
        quick=quick,
        scorer=FaceScorer(
            models=tuple(m.named for m in models),
            calibrations=calibrations,
            device=extractor.device,
            precision=config.computes_in(),
            batch_size=config.faces_together(),
        ),
        config_hash=json_hash(fingerprint_inputs),
        fingerprint_inputs=fingerprint_inputs,
        target=target,
    )


def _calibrations(
    config: ScoreConfig, models: Sequence[_Loaded], mode: SamplingMode
) -> tuple[Calibration | None, ...]:
    """Each model's for this way of scoring, at the prior that is asked for.

    :raises ConfigError: a prior is asked of a model without a calibration.
    """
    found = tuple(m.header.calibrated(config.aggregation, mode) for m in models)
    if config.prevalence is None:
        return found
    moved = []
    for model, own in zip(models, found, strict=True):
        if own is None:
            raise ConfigError(
                f"score.prevalence: {uncalibrated(config)}, so its p_fake is no probability: "
                "dfscan calibrate makes it one",
                code="calibration.unavailable",
            )
        threshold = model.header.threshold if own.threshold is None else own.threshold
        kept = own.model_copy(update={"threshold": threshold})
        moved.append(kept.at_prior(config.prevalence))
    return tuple(moved)


def _quick(
    config: ScoreConfig, header: ModelHeader, rule: DecisionRule, progress: Progress
) -> ScoringPass:
    """The look at key frames that comes first.

    :raises ConfigError: what it misses is not known of this model.
    """
    known = header.triage
    if known is None:
        raise ConfigError(
            "score.triage: this model's scores of key frames were never compared with the full look's: "
            "score labelled videos with --sampling keyframes and without, then dfscan calibrate "
            "MODEL VERDICTS --quick VERDICTS_OF_KEY_FRAMES --out MODEL2",
            code="calibration.unavailable",
        )
    progress.message(
        f"key frames first: of fakes that the full look flags at least {known.recall:.1%} go there "
        f"(95 % bound, {known.flagged} fakes)"
    )
    recipe = header.recipe.model_copy(update={"sampling": config.select("keyframes")})
    quick = replace(rule, calibration=known.calibration, threshold=known.deep_if)
    if config.prevalence is not None:
        moved = known.calibration.model_copy(update={"threshold": known.deep_if})
        moved = moved.at_prior(config.prevalence)
        assert moved.threshold is not None
        quick = replace(rule, calibration=moved, threshold=moved.threshold)
    return ScoringPass("quick", make_extractor(config, recipe, progress), quick)


def _threshold(
    config: ScoreConfig, models: Sequence[_Loaded], calibrations: Sequence[Calibration | None]
) -> float:
    """On ``p_fake``: the user's, one for a false-positive rate, or the mean of the models' own.

    :raises ConfigError: a false-positive rate is asked of models that cannot tell.
    """
    if config.threshold is not None:
        return config.threshold
    if config.at_fpr is not None:
        if len(models) > 1:
            raise ConfigError(
                "score.at_fpr: what several models together call FAKE is known of none: give "
                "--threshold, or one model"
            )
        (only,) = calibrations
        if only is None:
            raise ConfigError(
                f"score.at_fpr: {uncalibrated(config)}: give --threshold",
                code="calibration.unavailable",
            )
        return only.at_fpr(config.at_fpr)
    own = [
        m.header.threshold if c is None or c.threshold is None else c.threshold
        for m, c in zip(models, calibrations, strict=True)
    ]
    if len(own) == 1:
        return own[0]
    return sigmoid(math.fsum(logit_of(min(max(t, 1e-6), 1 - 1e-6)) for t in own) / len(own))
