"""What the configurations of several commands share."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ByteSize, Field

from dfscan.config.flags import Flag
from dfscan.config.types import Layout, Paths, Seconds, Statuses
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import Sampling, SamplingMode, Stride


class CommandConfig(Strict):
    """What every command shares.

    ``workers`` is the number of processes (default: one a CPU); ``gpus`` how many GPUs they
    share; ``inline`` runs the same code in this process, without Ray.
    """

    exclusive: ClassVar[tuple[str, ...]] = ()
    """Keys of which one is given: a stronger layer's replaces a weaker layer's other."""
    from_score: ClassVar[Mapping[str, str]] = {}
    """Keys that the file need not repeat: key → the one of its section ``score`` that stands in."""
    flags: ClassVar[tuple[Flag, ...]] = ()
    """Keys with an option of their own; ``--set`` reaches the others."""

    inline: bool = Field(False, description="Run in this process, without Ray")
    workers: int | None = Field(
        None, ge=1, description="Number of worker processes (default: one per CPU)"
    )
    gpus: int = Field(0, ge=0, description="Number of GPUs that the workers share")
    ray_address: str | None = Field(
        None, description="Address of a Ray cluster (default: a local Ray is started)"
    )
    ship_code: bool = Field(
        False,
        description="Send this dfscan to the nodes, which have the libraries it needs",
    )
    runtime_env: dict[str, Any] | None = Field(
        None, description="Ray's runtime environment for the workers: env_vars, pip, working_dir …"
    )
    overwrite: bool = Field(False, description="Replace existing output and start anew")


class DecodingConfig(CommandConfig):
    """How videos are opened: in sandboxed processes, several videos per unit of work."""

    unit_size: int = Field(16, ge=1, le=1024, description="Videos per commit")
    max_failed: float = Field(
        0.05, ge=0, le=1, description="Share of failed videos above which the exit code is 3"
    )
    timeout: Seconds = Field(
        120.0, description="Time limit per video in seconds, plus one second per megabyte"
    )
    max_memory: ByteSize | None = Field(
        None,
        description="Memory limit for decoding one video (default: a CPU's share, 2 to 8 GiB)",
    )
    recycle: int = Field(500, ge=1, description="Videos after which a decoding process is replaced")
    decoders: int | None = Field(
        None,
        ge=0,
        le=256,
        description="Number of decoding processes that feed one worker's detector; 0: each process "
        "runs its own detector (default: 0; with GPUs their share of the CPUs)",
    )
    isolate: bool = Field(True, description="Open videos in a sandboxed process")


class VideoInputConfig(DecodingConfig):
    """Where videos come from and how they are decoded."""

    source: Paths = Field(
        (),
        description="Folders, videos, pictures, .zip or .tar archives, or lists (.txt, .csv, "
        ".parquet); local or at s3://, gs://, abfs://, hdfs://",
    )
    layout: Layout = Field("auto", description="Folder layout that the labels are read from")
    max_bytes: int = Field(
        4 << 30, ge=1, description="Larger files are not opened; their status is too_large"
    )
    allow_gone: bool = Field(
        False, description="Continue even if many known videos are missing at the source"
    )
    retry: Statuses = Field(
        (), description="Process only videos with these statuses, as in timeout,crashed"
    )
    decoder: Literal["auto", "decord", "pyav"] = Field(
        "auto", description="Decoder; all give the same frames, auto decodes the fewest others"
    )


MODEL_HELP: Final = "model.safetensors or a run folder; of several the scores are averaged"

FRAME_KEYS: Final = ("stride", "frames", "every")
"""Three ways to choose frames; one is given."""


class FrameSelection(Strict):
    """Which frames of each video are sampled."""

    stride: Stride | None = Field(
        None, description="Take every n-th frame: 30, or per label real=30,fake=100"
    )
    frames: int | None = Field(
        None, ge=1, description="Frames per video, spread evenly (default: 32)"
    )
    every: Seconds | None = Field(None, description="Take one frame per this time: 1s")
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = Field(
        "hash", description="First frame: a number, or hash: another one for each video"
    )
    sampling: SamplingMode | None = Field(
        None,
        description="Which frames may stand in for those chosen: nearest and keyframes decode "
        "less (default: as the model was trained)",
    )

    def select(self, mode: SamplingMode) -> Sampling:
        """These frames: 32 spread evenly, unless configured otherwise.

        :param mode: how much is decoded.
        """
        if self.stride is not None:
            return Sampling(mode=mode, stride=self.stride, phase=self.phase)
        if self.every is not None:
            return Sampling(mode=mode, every_s=self.every, phase=self.phase)
        return Sampling(mode=mode, frames=self.frames or 32, phase=self.phase)
