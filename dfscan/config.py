"""Configuration: one validated model a verb; YAML in, unknown keys refused.

Order of precedence, strongest first: flags (and ``--set``), the environment
(``RAY_ADDRESS``), ``dfscan.yaml`` (or ``--config FILE``), the named ``--preset``, defaults.
"""

import datetime
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from dfscan.errors import ConfigError, did_you_mean
from dfscan.schemas.recipe import (
    Crop,
    Detector,
    FaceRecipe,
    Head,
    NetworkInput,
    Sampling,
    SamplingMode,
    Square,
    Strict,
    Stride,
    Triple,
)
from dfscan.schemas.records import STATUSES
from dfscan.schemas.scoring import Aggregation, Evidence

CONFIG_FILE: Final = "dfscan.yaml"

Layout = Literal["auto", "dfdc", "ffpp", "celebdf", "folders", "flat"]


def _listed(value: Any) -> Any:
    """One path where a list is wanted."""
    return [value] if isinstance(value, str | os.PathLike) else value


def _seconds(value: Any) -> Any:
    """``"1s"``, ``"1.5"`` or a number → seconds."""
    return value.removesuffix("s").strip() if isinstance(value, str) else value


PathText = Annotated[
    str, BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v)
]
Paths = Annotated[tuple[PathText, ...], BeforeValidator(_listed)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


def _names(value: Any) -> Any:
    """``"timeout,crashed"`` → its parts."""
    return tuple(p.strip() for p in value.split(",")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def _numbers(value: Any) -> Any:
    """``"0.1,1"``, or one number, where a list is wanted."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return (value,) if isinstance(value, int | float) else value


Numbers = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_numbers)]


def _rule(value: str) -> str:
    name, _, share = value.partition("=")
    try:
        if value in ("f1", "youden") or (name == "fpr" and 0 <= float(share) < 1):
            return value
    except ValueError:
        pass  # the share is no number
    raise ValueError("must be f1, youden, or a false-positive rate from 0 to below 1: fpr=0.01")


def _status(value: str) -> str:
    if value not in STATUSES:
        raise ValueError(f"must be a status: {', '.join(STATUSES)}")
    return value


_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhd])\s*$")


def _duration(value: Any) -> Any:
    """``"6h"`` → seconds; a number is seconds already."""
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError("must be a number with its unit: 90s, 30m, 6h or 2d")
    return float(match[1]) * _SECONDS[match[2]]


def _moment(value: Any) -> Any:
    """``"2026-11-01"``, ``"2026-11-01T06:00+01:00"`` or ``"24h"`` (ago) → seconds since the epoch."""
    if isinstance(value, datetime.date):  # what YAML makes of a date
        value = value.isoformat()
    if not isinstance(value, str):
        return value
    if _DURATION.match(value):
        return time.time() - float(_duration(value))
    try:
        moment = datetime.datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("must be a date (2026-11-01), a time or a time ago (24h, 7d)") from None
    if moment > time.time():
        raise ValueError("lies in the future")
    return moment


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
Moment = Annotated[float, BeforeValidator(_moment), Field(ge=0)]


def _lower(value: Any) -> Any:
    return tuple(v.lower() if isinstance(v, str) else v for v in _names(value) or ())


FailOn = Annotated[tuple[Literal["fake", "uncertain", "failed"], ...], BeforeValidator(_lower)]
Statuses = Annotated[tuple[Annotated[str, AfterValidator(_status)], ...], BeforeValidator(_names)]
Precision = Literal["float32", "bfloat16", "float16"]
BatchSize = Literal["auto"] | Annotated[int, Field(ge=1)]


class VerbConfig(Strict):
    """What every verb that does work shares.

    ``workers`` is the number of processes (default: one a CPU); ``gpus`` how many GPUs they
    share; ``inline`` runs the same code in this process, without Ray.
    """

    exclusive: ClassVar[tuple[str, ...]] = ()
    """Keys of which one is given: a stronger layer's replaces a weaker layer's other."""
    from_score: ClassVar[Mapping[str, str]] = {}
    """Keys that the file need not repeat: key → the one of its section ``score`` that stands in."""

    inline: bool = False
    workers: int | None = Field(None, ge=1)
    gpus: int = Field(0, ge=0)
    ray_address: str | None = None
    ship_code: bool = Field(
        False, description="send this dfscan to the nodes, which have the libraries it needs"
    )
    runtime_env: dict[str, Any] | None = Field(
        None, description="Ray's runtime environment for the workers: env_vars, pip, working_dir …"
    )
    overwrite: bool = False


class OpenConfig(VerbConfig):
    """How videos are opened: so many a unit, each in a process that can be ended."""

    unit_size: int = Field(16, ge=1, le=1024, description="videos a commit")
    max_failed: float = Field(0.05, ge=0, le=1, description="above this share: exit code 3")
    timeout: Seconds = Field(120.0, description="seconds a video, and one more a megabyte")
    max_memory: ByteSize | None = Field(
        None, description="that decoding one video may take; null: a CPU's share, 2 to 8 GiB"
    )
    recycle: int = Field(500, ge=1, description="videos after which a decoding process is replaced")
    decoders: int | None = Field(
        None,
        ge=0,
        le=256,
        description="decoding processes that feed one worker's detector; 0: each finds its own "
        "faces; null: 0, or a GPU's share of the CPUs",
    )
    isolate: bool = Field(True, description="open videos in a process that can be ended")


class LookConfig(OpenConfig):
    """What extracting and scoring share: where videos come from and how they are taken."""

    source: Paths = ()
    layout: Layout = "auto"
    max_bytes: int = Field(4 << 30, ge=1, description="larger files get the row too_large")
    allow_gone: bool = Field(False, description="accept that many known videos are missing")
    retry: Statuses = Field((), description="work only on videos that ended with these statuses")
    decoder: Literal["auto", "decord", "pyav"] = Field(
        "auto", description="the same frames each; decord and pyav decode the others too"
    )


class ExtractConfig(LookConfig):
    """``dfscan extract``: videos → a face dataset."""

    out: PathText = "faces"
    sampling: SamplingMode = Field(
        "exact", description="nearest and keyframes decode less and take frames nearby"
    )
    stride: Stride = Stride(real=30, fake=30)
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"
    detector: Detector = Detector()
    crop: Crop = Crop()
    boxes_from: Literal["detected", "original"] = Field(
        "detected", description="original: cut fakes where their original's faces are"
    )
    dry_run: bool = Field(False, description="only say what there is to do")

    @model_validator(mode="after")
    def _same_frames(self) -> "ExtractConfig":
        if self.boxes_from == "original" and self.sampling != "exact":
            raise ValueError(
                f"boxes_from: original needs the same frames of fake and original, and sampling: "
                f"{self.sampling} takes what each has: use sampling: exact"
            )
        return self

    def recipe(self) -> FaceRecipe:
        """The part of this configuration that decides about pixels."""
        sampling = Sampling(mode=self.sampling, stride=self.stride, phase=self.phase)
        return FaceRecipe(sampling=sampling, detector=self.detector, crop=self.crop)


class InputConfig(Strict):
    """What the network sees; null keys take what suits the backbone."""

    size: int | None = Field(None, ge=16, le=2048)
    margin: float = Field(0.3, ge=0, le=3)
    square: Square = "stretch"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: Triple | None = None
    std: Triple | None = None


Unfreeze = (
    Literal["all", "head"]
    | Annotated[str, Field(pattern=r"^last:[1-9][0-9]*$")]
    | Annotated[tuple[str, ...], Field(min_length=1)]
)
"""``all``, ``head``, ``last:N`` (the N last layers), or names of modules."""

Balance = Literal["uniform", "weights", "undersample", "none"]
Augment = Literal["none", "flip", "light", "classic", "dfdc", "sbi"]


class Phase(Strict):
    """A stretch of a training: what is trained, for how long, and how.

    ``step`` multiplies the rate by ``gamma`` every ``step_epochs``; ``poly`` lets it fall to 0 as
    (1 - done) ** ``power``. ``momentum`` is SGD's.
    """

    train: Unfreeze = "all"
    epochs: int = Field(10, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "adadelta"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["constant", "step", "cosine", "onecycle", "poly"] = "onecycle"
    step_epochs: int = Field(5, ge=1)
    gamma: float = Field(0.5, gt=0, lt=1)
    power: float = Field(1.0, gt=0)


class Loss(Strict):
    """``bce``, or ``focal`` with its ``gamma``; ``apart`` averages reals and fakes each alone."""

    name: Literal["bce", "focal"] = "bce"
    gamma: float = Field(2.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    apart: bool = False


class Identities(Strict):
    """How people are told apart: a weights file, and how far one person's faces may lie apart.

    ``weights``: a safetensors file for facenet-pytorch's InceptionResnetV1, with its names.
    ``distance``: Euclidean, between embeddings of length 1.
    """

    weights: PathText
    distance: float = Field(0.8, gt=0, lt=2)


class TrainConfig(VerbConfig):
    """``dfscan train``: faces → a classifier.

    Without ``phases`` the whole network is trained in one, with the values beside them.
    """

    faces: Paths = ("faces",)
    mix: Numbers = Field((), description="a weight for each dataset; empty: all alike")
    out: PathText = "run"
    backbone: str = "mesoinception4"
    head: Head = Head()
    pretrained: bool | None = Field(
        None, description="timm's weights; null: wherever the backbone has some"
    )
    weights: PathText | None = Field(
        None, description="a safetensors file with timm's names, to begin with"
    )
    input: InputConfig = InputConfig()
    phases: tuple[Phase, ...] = ()
    epochs: int = Field(10, ge=1)
    optimizer: Literal["adam", "adamw", "sgd", "adadelta"] = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "step", "cosine", "onecycle", "poly"] = "onecycle"
    batch_size: int = Field(32, ge=1, description="faces a step, over all workers")
    accumulate: int = Field(1, ge=1, description="parts in which a batch goes through the network")
    epoch_faces: int | None = Field(
        None, ge=2, description="faces an epoch; null: as many as there are to train on"
    )
    loss: Loss = Loss()
    balance: Balance = "uniform"
    paired: bool = Field(False, description="batches of fakes with their originals' faces")
    min_face_diff: float | None = Field(
        None, ge=0, le=2, description="leave out fakes' faces that differ less from the original's"
    )
    augment: Augment = "flip"
    ema: float | None = Field(None, gt=0, lt=1, description="decay of averaged weights, a step")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on GPUs that have it, else fp32"
    )
    compile: bool = Field(False, description="torch.compile")
    clip_grad: float | None = Field(None, gt=0, description="largest norm of a step's gradient")
    choose: Literal["loss", "auc", "last"] = Field(
        "loss",
        description="the epoch that is kept: lowest validation loss, highest video AUC, last",
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs that were no better by what chooses"
    )
    group_by: str | None = Field(
        None,
        description="a regular expression on video_id whose first group names the group, or file",
    )
    identities: Identities | None = Field(None, description="keep each person's videos on one side")
    val_fraction: float = Field(0.2, gt=0, lt=1)
    test_fraction: float = Field(0.1, ge=0, lt=1)
    folds: int | None = Field(None, ge=2, le=100, description="cross-validation")
    fold: int | None = Field(None, ge=0, description="this fold alone, counted from 0")
    sweep: Numbers = Field(
        (), description="train once on each of these shares of the training groups"
    )
    threshold: Annotated[str, AfterValidator(_rule)] = Field(
        "youden", description="how the operating point is chosen on the validation side"
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        own = [k for k in _PHASE_KEYS if k in self.model_fields_set]
        if self.phases and own:
            raise ValueError(
                f"phases say {' and '.join(own)} themselves: leave {own[0]} out, or change the "
                f"phase as in --set 'train.phases=[{{train: head, {own[0]}: …}}]'"
            )
        if self.mix and len(self.mix) != len(self.faces):
            raise ValueError(
                f"mix has {len(self.mix)} weights for {len(self.faces)} datasets: give one for each"
            )
        if self.mix and self.balance != "uniform":
            raise ValueError(f"mix needs balance: uniform, got {self.balance}")
        if self.paired and self.balance != "uniform":
            raise ValueError(
                f"paired shows each fake with its original, 1:1; balance {self.balance} would be a "
                "second remedy for unequal classes: use balance: uniform"
            )
        if self.augment == "sbi" and (self.paired or self.balance == "weights"):
            other = "paired" if self.paired else "balance: weights"
            raise ValueError(
                f"augment: sbi makes a fake of each real, 1:1, and leaves {other} nothing to do: use "
                "one of them"
            )
        if self.loss.apart and self.balance == "weights":
            raise ValueError(
                "loss.apart and balance: weights both even out the classes: use one of them"
            )
        if self.fold is not None and self.fold >= (self.folds or 0):
            raise ValueError(f"fold must be below folds, got fold {self.fold} of {self.folds}")
        if self.choose == "last" and self.patience is not None:
            raise ValueError("choose: last finds every epoch better, so leave patience out")
        if any(share > 1 for share in self.sweep):
            raise ValueError(f"sweep names shares from above 0 to 1, got {max(self.sweep)}")
        if self.sweep and self.folds:
            raise ValueError("sweep and folds exclude each other: give one of them")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction and test_fraction leave nothing to train on")
        return self

    @model_validator(mode="after")
    def _one_worker_a_gpu(self) -> "TrainConfig":
        if self.inline and self.gpus > 1:
            raise ValueError(
                f"inline trains in this process, on one GPU at most, got gpus {self.gpus}: leave "
                "inline out, or give gpus 1"
            )
        if self.gpus and not self.inline and self.workers not in (None, self.gpus):
            raise ValueError(
                f"on GPUs there is one worker a GPU, got workers {self.workers} and gpus "
                f"{self.gpus}: leave workers out"
            )
        return self

    def stages(self) -> tuple[Phase, ...]:
        """The phases, one where none are given."""
        return self.phases or (Phase(**{k: getattr(self, k) for k in _PHASE_KEYS}),)


_PHASE_KEYS: Final = ("epochs", "optimizer", "lr", "weight_decay", "schedule")


class ScoreConfig(LookConfig):
    """``dfscan score``: videos → one verdict each."""

    exclusive: ClassVar[tuple[str, ...]] = ("stride", "frames", "every")

    model: Paths = Field((), description="one, or several whose scores are averaged")
    out: PathText = "verdicts.parquet"
    stride: Stride | None = None
    frames: int | None = Field(None, ge=1)
    every: Seconds | None = None
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"
    sampling: SamplingMode | None = Field(
        None, description="null: the model's, which learned from frames of that kind"
    )
    triage: bool = Field(
        False, description="key frames first, the full look where those are not clearly real"
    )
    threshold: float | None = Field(None, ge=0, le=1)
    min_frames: int = Field(
        1, ge=1, description="frames with a face that a verdict needs; fewer: null"
    )
    at_fpr: float | None = Field(
        None, gt=0, lt=1, description="threshold by the model's held-out reals: called FAKE at most"
    )
    prevalence: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of fakes that p_fake assumes; null: the model's, a half",
    )
    aggregation: Aggregation = Field("mean", description="how the faces' scores become one")
    evidence: Evidence = Evidence()
    precision: Literal["auto"] | Precision = Field(
        "auto",
        description="what the network computes in; auto: float32, on GPUs float16",
    )
    batch_size: BatchSize = Field(
        "auto",
        description="faces that go through the network together; auto: 32, on GPUs 256; "
        "halved where they do not fit into a GPU's memory",
    )
    stale: Literal["keep", "rescan"] = Field(
        "keep", description="verdicts of another model or configuration; rescan: after new files"
    )
    since: Moment | None = Field(
        None, description="work only on files changed since a date (2026-11-01) or a time ago (24h)"
    )
    limit_time: Duration | None = Field(
        None, description="begin no unit after so long: 6h; the next run continues"
    )
    fail_on: FailOn = Field(
        (), description="exit code 4 if this run finds such: fake, uncertain, failed"
    )
    diff: bool = Field(False, description="tell what changed against the verdicts of before")
    log: PathText | None = Field(None, description="events as JSON lines, appended")
    metrics_file: PathText | None = Field(None, description="a summary in Prometheus' text format")
    dry_run: bool = Field(False, description="only say what there is to do")

    @model_validator(mode="after")
    def _can_continue(self) -> "ScoreConfig":
        if self.overwrite and self.limit_time is not None:
            raise ValueError(
                "overwrite begins anew each time, so limit_time would never let it finish: use "
                "stale: rescan"
            )
        return self

    @model_validator(mode="after")
    def _one_sampling(self) -> "ScoreConfig":
        given = [n for n in self.exclusive if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.threshold is not None and self.at_fpr is not None:
            raise ValueError("threshold and at_fpr exclude each other: give one of them")
        if self.triage and (len(self.model) > 1 or self.sampling or self.aggregation != "mean"):
            raise ValueError(
                "triage is known of one model, its own sampling and aggregation: mean: leave the "
                "others out"
            )
        return self

    @model_validator(mode="after")
    def _has_precision(self) -> "ScoreConfig":
        if self.precision == "float16" and not self.gpus:
            raise ValueError(
                "precision: float16 needs a GPU (--gpus 1): use float32, or bfloat16 on a CPU"
            )
        return self

    def computes_in(self) -> Precision:
        """``precision``, ``auto`` settled.

        float16, not bfloat16: rounding moved logits a tenth as far on every network tried, and a
        logit that is not finite is computed again in float32.
        """
        if self.precision != "auto":
            return self.precision
        return "float16" if self.gpus else "float32"

    def faces_together(self) -> int:
        """``batch_size`` as a number."""
        if self.batch_size != "auto":
            return self.batch_size
        return 256 if self.gpus else 32

    def frames_of(self, mode: SamplingMode) -> Sampling:
        """32 frames spread evenly, unless told otherwise, of one kind."""
        if self.stride is not None:
            return Sampling(mode=mode, stride=self.stride, phase=self.phase)
        if self.every is not None:
            return Sampling(mode=mode, every_s=self.every, phase=self.phase)
        return Sampling(mode=mode, frames=self.frames or 32, phase=self.phase)


class CalibrateConfig(VerbConfig):
    """``dfscan calibrate``: p_fake and the threshold of a model, from a user's own verdicts.

    ``frames``, ``every``, ``stride``, ``phase`` and ``sampling`` say how the verdicts were sampled,
    where their file does not.
    """

    exclusive: ClassVar[tuple[str, ...]] = ("threshold_rule", "at_fpr", "alert_budget")

    model: PathText | None = None
    verdicts: PathText = "verdicts.parquet"
    quick: PathText | None = Field(
        None, description="verdicts of the same videos' key frames: fits the triage as well"
    )
    labels: PathText | None = Field(
        None, description="a table, DFDC's metadata.json or labels.csv, or REAL: all of them are"
    )
    out: PathText | None = None
    threshold_rule: Annotated[str, AfterValidator(_rule)] | None = None
    at_fpr: float | None = Field(None, gt=0, lt=1, description="share of reals called FAKE")
    alert_budget: float | None = Field(None, gt=0, description="false alarms a night")
    videos_a_night: int | None = Field(None, ge=1, description="null: as many as VERDICTS has")
    prevalence: float | None = Field(None, gt=0, lt=1, description="prior share of fakes")
    aggregation: Aggregation = Field("mean", description="as the verdicts were scored")
    stride: Stride | None = None
    frames: int | None = Field(None, ge=1)
    every: Seconds | None = None
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"
    sampling: SamplingMode | None = Field(None, description="null: the model's")

    @model_validator(mode="after")
    def _consistent(self) -> "CalibrateConfig":
        for names in (self.exclusive, ScoreConfig.exclusive):
            given = [n for n in names if getattr(self, n) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        if self.videos_a_night is not None and self.alert_budget is None:
            raise ValueError("videos_a_night says what alert_budget is a share of: give both")
        if self.share() == 0:
            raise ValueError(
                f"threshold_rule {self.threshold_rule}: no number of reals shows a rate of 0; give "
                "one above 0, as in fpr=0.01"
            )
        return self

    def share(self) -> float | None:
        """The false-positive rate asked for by name; None for an alert budget and other rules."""
        name, _, share = (self.threshold_rule or "").partition("=")
        return float(share) if name == "fpr" else self.at_fpr

    def frames_of(self, mode: SamplingMode) -> Sampling | None:
        """As ``score`` understands the same keys; None where nothing is said.

        :param mode: the model's.
        """
        keys = {name: getattr(self, name) for name in (*ScoreConfig.exclusive, "sampling")}
        if self.phase == "hash" and not any(keys.values()):
            return None
        return ScoreConfig(**keys, phase=self.phase).frames_of(self.sampling or mode)


class QuickstartConfig(VerbConfig):
    """``dfscan quickstart``: a small synthetic corpus through extract, train, score and evaluate."""

    out: PathText = "quickstart"
    seed: int = Field(0, ge=0)
    people: int = Field(28, ge=4, le=200, description="invented people in the training parts")
    test_people: int = Field(8, ge=2, le=100, description="others, in the test part")
    epochs: int = Field(12, ge=1)


class InspectConfig(VerbConfig):
    """``dfscan inspect``: what is this?"""

    path: PathText = "."


class PurgeConfig(VerbConfig):
    """``dfscan purge``: remove every trace of some videos."""

    path: PathText = "faces"
    video: Paths = ()


class VerifyConfig(OpenConfig):
    """``dfscan verify``: verdicts, made again from their custody record and compared."""

    from_score: ClassVar[Mapping[str, str]] = {
        "verdicts": "out",
        **{
            key: key
            for key in (
                *("model", "unit_size", "batch_size", "timeout", "max_memory", "recycle"),
                *("decoders", "isolate"),
            )
        },
    }

    verdicts: PathText = "verdicts.parquet"
    model: Paths = Field((), description="every model that scored")
    video: Paths = ()
    sample: int | None = Field(None, ge=1, description="so many verdicts, chosen at random")
    seed: int = Field(0, ge=0, description="of the choice")
    tolerance: float = Field(
        1e-3,
        ge=0,
        description="how far two logits may lie apart; left alone, more where one is of half precision",
    )
    batch_size: BatchSize = "auto"

    @model_validator(mode="after")
    def _one_choice(self) -> "VerifyConfig":
        if self.video and self.sample is not None:
            raise ValueError("video and sample exclude each other: give one of them")
        return self


class EvaluateConfig(VerbConfig):
    """``dfscan evaluate``: verdicts, or faces and a model, against the truth."""

    path: PathText = Field("verdicts.parquet", description="a verdict file, or a face dataset")
    model: PathText | None = Field(None, description="what judges the faces of a dataset")
    against: PathText | None = Field(
        None, description="other verdicts on the same videos; of faces another model"
    )
    labels: PathText | None = Field(
        None, description="a table, metadata.json, or the labelled source; null: the rows' own"
    )
    layout: Layout = "auto"
    by: Names = Field((), description="part, resolution, face_size, people, or any attribute")
    threshold: float | None = Field(None, ge=0, le=1, description="null: each verdict's own")
    out: PathText = "evaluation"
    resamples: int = Field(1000, ge=100, le=100_000, description="of the bootstrap intervals")
    seed: int = Field(0, ge=0, description="of the resamples")
    faces: int = Field(300, ge=0, le=1000, description="on the page; 0: no video is opened for it")
    batch_size: BatchSize = "auto"


class ReportConfig(OpenConfig):
    """``dfscan report``: one page about a dataset, a run, verdicts or an evaluation."""

    path: PathText = "verdicts.parquet"
    out: PathText | None = Field(None, description="null: report.html in or beside the path")
    faces: int = Field(300, ge=0, le=1000, description="thumbnails, the most suspicious first")


class AnnotateConfig(OpenConfig):
    """``dfscan annotate``: a video or picture with boxes."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "threshold": "threshold",
        "aggregation": "aggregation",
    }

    file: PathText | None = None
    model: Paths = Field((), description="one, or several whose scores are averaged")
    out: PathText | None = None
    threshold: float | None = Field(None, ge=0, le=1)
    aggregation: Aggregation = Field("mean", description="how the file's faces become one score")
    every: Seconds = Field(0.2, description="seconds between the frames that are judged")
    batch_size: BatchSize = "auto"


class StressConfig(LookConfig):
    """``dfscan stress``: the same clips, re-encoded and scored again."""

    from_score: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "source": "source",
        "aggregation": "aggregation",
    }

    model: Paths = Field((), description="one, or several whose scores are averaged")
    labels: PathText | None = Field(
        None, description="a table, metadata.json, or the labelled source; null: the source's own"
    )
    conditions: Names = Field((), description="beside the original; empty: all")
    sample: int | None = Field(None, ge=1, description="so many videos, chosen at random")
    seed: int = Field(0, ge=0, description="of the choice")
    frames: int = Field(32, ge=1, description="a video, spread evenly; never sparser than 2 s")
    threshold: float | None = Field(None, ge=0, le=1)
    aggregation: Aggregation = Field("mean", description="how the faces' scores become one")
    out: PathText = "stress"
    batch_size: BatchSize = "auto"


class ExportConfig(VerbConfig):
    """``dfscan export``: a model for other runtimes, checked against the original."""

    from_score: ClassVar[Mapping[str, str]] = {"model": "model"}

    model: PathText | None = None
    formats: Annotated[
        tuple[Literal["onnx", "onnx-int8", "torchscript", "litert"], ...], BeforeValidator(_names)
    ] = ("onnx",)
    out: PathText | None = Field(
        None, description="null: beside the model, export or, of x.safetensors, x_export"
    )
    faces: PathText | None = Field(
        None, description="a face dataset to compare the formats on, and to fit int8 to"
    )


class ImportModelConfig(VerbConfig):
    """``dfscan models import``: a published detector's weights → a dfscan model."""

    kind: str = ""
    file: PathText = ""
    out: PathText | None = None
    mapping: PathText | None = None


class ListModelsConfig(VerbConfig):
    """``dfscan models list``: detectors that can be imported."""


VERBS: Final[Mapping[str, type[VerbConfig]]] = {
    "extract": ExtractConfig,
    "train": TrainConfig,
    "score": ScoreConfig,
    "calibrate": CalibrateConfig,
    "quickstart": QuickstartConfig,
    "inspect": InspectConfig,
    "purge": PurgeConfig,
    "verify": VerifyConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "annotate": AnnotateConfig,
    "stress": StressConfig,
    "export": ExportConfig,
    "import_model": ImportModelConfig,
    "list_models": ListModelsConfig,
}
_SHARED: Final = frozenset(VerbConfig.model_fields) - {"overwrite"}

Config = TypeVar("Config", bound=VerbConfig)


def resolve(
    verb: type[Config],
    flags: Mapping[str, Any],
    *,
    config_file: str | Path | None = None,
    preset: str | None = None,
    sets: Iterable[str] = (),
) -> Config:
    """The configuration of one verb from everything the user said.

    :param flags: key → value as given on the command line; None means not given. A dotted key
        (``crop.context``) reaches into a section.
    :param config_file: a YAML file; None takes ``dfscan.yaml`` where there is one.
    :param sets: ``"extract.detector.min_face=40"``, values as YAML.
    :raises ConfigError: an unknown key or a value that is not allowed; nothing was started.
    """
    name = next(n for n, model in VERBS.items() if model is verb)
    merged: dict[str, Any] = {}
    if preset is not None:
        _layer(merged, _load_preset(name, preset), verb)
    _layer(merged, _load_file(name, config_file), verb)
    if os.environ.get("RAY_ADDRESS"):
        merged["ray_address"] = os.environ["RAY_ADDRESS"]
    given: dict[str, Any] = {}
    for key, value in flags.items():
        if value is not None:
            _put(given, key.split("."), value)
    for text in sets:
        _apply_set(name, given, text)
    _layer(merged, given, verb)
    return build(verb, merged)


def build(verb: type[Config], values: Mapping[str, Any]) -> Config:
    """Validate ``values``; every complaint names the key, the value got and what is allowed."""
    try:
        return verb.model_validate(values)
    except ValidationError as error:
        name = next(n for n, model in VERBS.items() if model is verb)
        raise ConfigError(_explain(name, verb, error.errors())) from None


def preset_names(verb: str) -> list[str]:
    """Names that ``--preset`` takes for this verb: files of ``configs/VERB/``."""
    folder = configs_folder() / verb
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def configs_folder() -> Path:
    """Where presets lie: in the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _load_preset(verb: str, preset: str) -> dict[str, Any]:
    names = preset_names(verb)
    if preset not in names:
        raise ConfigError(
            f"unknown preset {preset!r} for {verb}: {did_you_mean(preset, names)}",
            code="config.unknown_name",
        )
    return _read_yaml(configs_folder() / verb / f"{preset}.yaml")


def _load_file(verb: str, path: str | Path | None) -> dict[str, Any]:
    if path is None:
        path = Path(CONFIG_FILE)
        if not path.is_file():
            return {}
    content = _read_yaml(Path(path))
    known = {*VERBS, "run"}
    for key in content:
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {key!r}: {did_you_mean(str(key), known)}",
                code="config.unknown_key",
            )
    shared = _load_section(path, content, "run")
    for key in shared:
        if key not in _SHARED:
            hint = did_you_mean(str(key), _SHARED)
            raise ConfigError(f"{path}: unknown key 'run.{key}': {hint}", code="config.unknown_key")
    for name in content:
        _check_section(path, name, _load_section(path, content, name))
    score = _load_section(path, content, "score")
    borrowed = {key: score[at] for key, at in VERBS[verb].from_score.items() if at in score}
    return {**shared, **borrowed, **_load_section(path, content, verb)}


def _load_section(path: str | Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ConfigError(
            f"{path}: {name!r} must hold keys and values, got {section!r}", code="config.unreadable"
        )
    return section


def _check_section(path: str | Path, name: str, section: Mapping[str, Any]) -> None:
    """Refuse a key or value that is wrong whatever verb runs, and whatever flags lie over it.

    What keys say together, and what is missing, the verb judges: presets and flags take part in that.
    """
    model = VERBS.get(name, VerbConfig)
    try:
        model.model_validate(section)
    except ValidationError as error:
        alone = [e for e in error.errors() if not _needs_the_rest(e)]
        if alone:
            raise ConfigError(f"{path}: {_explain(name, model, alone)}") from None


def _needs_the_rest(error: Any) -> bool:
    """Whether a complaint is about several keys, or about one that is not there."""
    together = error["type"] == "value_error" and isinstance(error["input"], Mapping)
    return together or error["type"] == "missing"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read configuration {path}: {error.strerror}", code="config.unreadable"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", code="config.unreadable"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold keys and values, got {type(content).__name__}",
            code="config.unreadable",
        )
    return content


def _apply_set(verb: str, values: dict[str, Any], text: str) -> None:
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2:
        raise ConfigError(f"--set {text!r}: write VERB.KEY=VALUE, as in --set {verb}.workers=4")
    if keys[0] not in VERBS:
        raise ConfigError(
            f"--set {text!r}: unknown verb {keys[0]!r}: {did_you_mean(keys[0], VERBS)}",
            code="config.unknown_name",
        )
    if keys[0] != verb:
        return
    try:
        _put(values, keys[1:], yaml.safe_load(raw))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: {' '.join(str(error).split())}") from None


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[key]
    values[keys[-1]] = value


def _layer(base: dict[str, Any], over: Mapping[str, Any], verb: type[VerbConfig]) -> None:
    """Lay a stronger layer over a weaker one."""
    if any(key in over for key in verb.exclusive):
        for key in verb.exclusive:
            base.pop(key, None)
    _merge(base, over)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def _explain(verb: str, model: type[Strict], errors: Sequence[Any]) -> str:
    """The first complaint of pydantic in one line: name, value got, values allowed."""
    first = errors[0]
    keys = _keys(first)
    path = ".".join([verb, *keys])
    if first["type"] == "extra_forbidden":
        section = _section(model, keys[:-1])
        return f"unknown key {path!r}: {did_you_mean(keys[-1], section.model_fields)}"
    got = type(first["input"]).__name__ if keys[:1] == ["runtime_env"] else repr(first["input"])
    allowed = "; ".join(dict.fromkeys(_message(e) for e in errors if _keys(e) == keys))
    return f"{path}: got {got}; {allowed}" if keys else f"{verb}: {allowed}"


def _keys(error: Any) -> list[str]:
    return [str(k) for k in error["loc"] if not _is_union_branch(str(k))]


def _is_union_branch(key: str) -> bool:
    """Pydantic names the branch of a union in ``loc``; users did not type that."""
    return (
        key in {"int", "float", "str"} or key.startswith(("literal", "constrained")) or "[" in key
    )


def _message(error: Any) -> str:
    text: str = error["msg"]
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[0].lower() + text[1:]


def _section(model: type[Strict], keys: list[str]) -> type[Strict]:
    for key in keys:
        if key.isdecimal():  # a place in a list, which the key before it led to
            continue
        info: FieldInfo = model.model_fields[key]
        candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Strict))
    return model


__all__ = [
    "CONFIG_FILE",
    "VERBS",
    "AnnotateConfig",
    "CalibrateConfig",
    "EvaluateConfig",
    "ExportConfig",
    "ExtractConfig",
    "ImportModelConfig",
    "InputConfig",
    "InspectConfig",
    "ListModelsConfig",
    "LookConfig",
    "Loss",
    "NetworkInput",
    "OpenConfig",
    "Phase",
    "PurgeConfig",
    "QuickstartConfig",
    "ReportConfig",
    "ScoreConfig",
    "StressConfig",
    "TrainConfig",
    "VerbConfig",
    "VerifyConfig",
    "build",
    "configs_folder",
    "preset_names",
    "resolve",
]
