"""Configuration of ``dfscan train``."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from dfscan.config.base import CommandConfig
from dfscan.config.flags import CLUSTER, OUT, OVERWRITE, RUNNING, Flag
from dfscan.config.types import Numbers, Paths, PathText, _rule
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Head, Square, Triple

Unfreeze = (
    Literal["all", "head"]
    | Annotated[str, Field(pattern=r"^last:[1-9][0-9]*$")]
    | Annotated[tuple[str, ...], Field(min_length=1)]
)
"""``all``, ``head``, ``last:N`` (the N last layers), or names of modules."""


Balance = Literal["uniform", "weights", "undersample", "none"]


Augment = Literal["none", "flip", "light", "classic", "dfdc", "sbi"]


class InputConfig(Strict):
    """What the network sees; null keys take what suits the backbone."""

    size: int | None = Field(
        None,
        ge=16,
        le=2048,
        description="Input size of the network in pixels (default: by backbone)",
    )
    margin: float = Field(
        0.3, ge=0, le=3, description="Margin around the box that the network sees, as a share of it"
    )
    square: Square = "stretch"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: Triple | None = None
    std: Triple | None = None


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


NETWORK: Final = "Network"
TRAINING: Final = "Training"
SPLIT: Final = "Split and evaluation"


class TrainConfig(CommandConfig):
    """``dfscan train``: faces → a classifier.

    Without ``phases`` the whole network is trained in one, with the values beside them.
    """

    flags: ClassVar[tuple[Flag, ...]] = (
        Flag("faces", metavar="FACES...", many=True, argument=True), Flag("mix", metavar="X,…"),
        OUT, OVERWRITE,
        Flag("backbone", NETWORK), Flag("pretrained", NETWORK, off="--no-pretrained"),
        Flag("weights", NETWORK, metavar="PATH"), Flag("input.size", NETWORK),
        Flag("input.margin", NETWORK),
        *(Flag(k, TRAINING) for k in (
            "epochs", "batch_size", "lr", "augment", "balance", "paired", "ema", "patience", "seed",
        )),
        Flag("group_by", SPLIT, metavar="REGEX"), Flag("val_fraction", SPLIT),
        Flag("test_fraction", SPLIT), Flag("folds", SPLIT), Flag("fold", SPLIT),
        Flag("sweep", SPLIT, metavar="X,…"), Flag("threshold", SPLIT, metavar="RULE"),
        Flag("precision", RUNNING), *CLUSTER,
    )  # fmt: skip

    faces: Paths = Field(("faces",), description="Face datasets (default: faces)")
    mix: Numbers = Field((), description="Weight of each dataset, as in 2,1 (default: equal)")
    out: PathText = Field("run", description="Run folder to write")
    backbone: str = Field(
        "mesoinception4", description="Network: mesoinception4, dct_resnet … or any timm model"
    )
    head: Head = Field(default_factory=Head)
    pretrained: bool | None = Field(
        None, description="Use timm's published weights (default: if the backbone has some)"
    )
    weights: PathText | None = Field(
        None, description="Initial weights: a safetensors file with timm's names"
    )
    input: InputConfig = Field(default_factory=InputConfig)
    phases: tuple[Phase, ...] = ()
    epochs: int = Field(10, ge=1, description="Passes over the faces")
    optimizer: Literal["adam", "adamw", "sgd", "adadelta"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="Peak learning rate")
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["constant", "step", "cosine", "onecycle", "poly"] = "onecycle"
    batch_size: int = Field(32, ge=1, description="Faces per step, over all workers")
    accumulate: int = Field(
        1, ge=1, description="Number of parts in which a batch goes through the network"
    )
    epoch_faces: int | None = Field(
        None, ge=2, description="Faces per epoch (default: the number of faces to train on)"
    )
    loss: Loss = Field(default_factory=Loss)
    balance: Balance = Field("uniform", description="How faces of the two classes are drawn")
    paired: bool = Field(False, description="Put each fake into a batch with its original's faces")
    min_face_diff: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Leave out faces of fakes that differ less from the original's face",
    )
    augment: Augment = Field("flip", description="Augmentation of the faces")
    ema: float | None = Field(
        None, gt=0, lt=1, description="Decay of averaged weights per step, as in 0.999"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Precision of the network; auto: bf16 on GPUs that have it, else fp32"
    )
    compile: bool = Field(False, description="Use torch.compile")
    clip_grad: float | None = Field(None, gt=0, description="Largest norm of a step's gradient")
    choose: Literal["loss", "auc", "last"] = Field(
        "loss",
        description="The epoch to keep: lowest validation loss, highest video AUC, or the last",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after this number of epochs without improvement"
    )
    group_by: str | None = Field(
        None,
        description="Regular expression on video_id whose first group names the group of videos "
        "that stay together; file: each file is a group of its own",
    )
    identities: Identities | None = Field(
        None, description="Keep all videos of a person on one side of the split"
    )
    val_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the groups for validation")
    test_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the groups for the test")
    folds: int | None = Field(
        None, ge=2, le=100, description="Cross-validation with this number of folds"
    )
    fold: int | None = Field(None, ge=0, description="Train this fold alone, counted from 0")
    sweep: Numbers = Field(
        (),
        description="Train once on each of these shares of the training groups, as in 0.1,0.3,1",
    )
    threshold: Annotated[str, AfterValidator(_rule)] = Field(
        "youden",
        description="How the threshold is chosen on validation: youden, f1, or a false-positive "
        "rate as in fpr=0.01",
    )
    seed: int = Field(0, ge=0, description="Seed of the split, the weights and the order")
    workers: int | None = Field(
        None,
        ge=1,
        description="Number of training processes (default: 1); with --inline, CPU threads "
        "(default: all)",
    )
    gpus: int = Field(0, ge=0, description="Number of GPUs, one process each")

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
