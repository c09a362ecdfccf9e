"""What the configurations of several commands share."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ByteSize, Field

from dfscan.config.types import Layout, Paths, Seconds, Statuses
from dfscan.schemas.recipe import Sampling, SamplingMode, Strict, Stride


class CommandConfig(Strict):
    """What every command shares.

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


class DecodingConfig(CommandConfig):
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


class VideoInputConfig(DecodingConfig):
    """What extracting and scoring share: where videos come from and how they are taken."""

    source: Paths = ()
    layout: Layout = "auto"
    max_bytes: int = Field(4 << 30, ge=1, description="larger files get the row too_large")
    allow_gone: bool = Field(False, description="accept that many known videos are missing")
    retry: Statuses = Field((), description="work only on videos that ended with these statuses")
    decoder: Literal["auto", "decord", "pyav"] = Field(
        "auto", description="the same frames each; decord and pyav decode the others too"
    )


FRAME_KEYS: Final = ("stride", "frames", "every")
"""Three ways to choose frames; one is given."""


class FrameSelection(Strict):
    """Which frames of each video are sampled."""

    stride: Stride | None = None
    frames: int | None = Field(None, ge=1)
    every: Seconds | None = None
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"
    sampling: SamplingMode | None = Field(
        None, description="null: the model's, which learned from frames of that kind"
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
