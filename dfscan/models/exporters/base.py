"""What an exporter is, and what its files say of themselves."""

import importlib.util
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dfscan import __version__
from dfscan.errors import ConfigError, ModelError
from dfscan.models.modelfile import Model, ModelHeader
from dfscan.schemas.recipe import FaceRecipe, NetworkInput

HEADER: Final = "dfscan"
"""The key under which a file holds its model's whole header, as JSON."""

INPUT: Final = "pixels"
OUTPUT: Final = "logit"
AGREES: Final = 1e-4
"""Logits of an exported network may differ from the original's by so much."""

FACTS: Final = (HEADER, "model_sha256", "description")
"""What a file says of itself: the keys that :func:`describe` gives."""

LARGEST_FACT: Final = 64 << 20
"""Bytes of one fact that is read back; a header is far smaller."""

_DAMAGED: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError),  # OSError: damaged bzip2
    *(EOFError, NotImplementedError, RuntimeError),
)

Pixels = npt.NDArray[np.uint8]
Facts = Mapping[str, str]
Runner = Callable[[Pixels], npt.NDArray[np.float32]]
"""(N, S, S, 3) uint8 RGB → (N,) float32 logits, N ≥ 1."""


class PixelNetwork(nn.Module):
    """A network with its normalisation. Forward: (N, S, S, 3) uint8 RGB → (N,) float32 logits.

    It takes what :func:`dfscan.faces.crops.cut_out` gives, so that whoever runs it elsewhere has
    means, deviations and the order of axes not to replay, nor to get wrong. The arithmetic is that
    of :func:`dfscan.models.backbones.normalise`, with constants that move with the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, recipe: NetworkInput) -> None:
        super().__init__()
        self.network = network
        self.size = recipe.size
        for name, value in (("mean", recipe.mean), ("std", recipe.std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        scaled = pixels.permute(0, 3, 1, 2).float().div(255)
        logits: Tensor = self.network((scaled - self.mean) / self.std)
        return logits

    def example(self, batch: int = 2) -> Tensor:
        """An input to follow through the network; two faces, as tracers take one for a constant."""
        return torch.zeros(batch, self.size, self.size, 3, dtype=torch.uint8)


@dataclass(frozen=True)
class Exporter:
    """A format.

    ``convert(network, facts, faces)`` gives the file's bytes, with ``facts`` in its metadata;
    ``faces`` (N, S, S, 3) uint8 are what a quantised network is fitted to, the others leave them
    alone. ``load(data, threads)`` makes them run. ``facts(data)`` gives what ``convert`` was told, read
    as data: nothing of the file runs, no package is needed; empty for another program's file,
    ValueError for a damaged one. ``batch``: the one it takes, None for any.
    ``tolerance``: how far logits may be from the original's, None for a network that is meant to
    differ. ``fitted``: it needs faces to be made. ``packages`` come with the extra ``extra``; none
    are needed where that is None.
    """

    suffix: str
    convert: Callable[[PixelNetwork, Facts, Pixels], bytes]
    load: Callable[[bytes, int], Runner]
    facts: Callable[[bytes], dict[str, str]]
    extra: str | None = None
    packages: tuple[str, ...] = ()
    batch: int | None = None
    tolerance: float | None = AGREES
    fitted: bool = False

    def check_installed(self, name: str) -> None:
        """Refuse a format whose packages are not there.

        :raises ConfigError: with the command that installs them.
        """
        missing = [p for p in self.packages if importlib.util.find_spec(p) is None]
        if missing:
            raise ConfigError(
                f"export.formats: {name} needs {' and '.join(missing)}: pip install "
                f"'dfscan[{self.extra}]'"
            )


def refusal(format_name: str, error: Exception) -> ModelError:
    """One line for a network that a format cannot hold."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = lines[0][:200] if lines else type(error).__name__
    return ModelError(
        f"the network cannot be exported as {format_name} ({why}): leave {format_name} out of --format"
    )


def describe(model: Model, exporter: Exporter) -> dict[str, str]:
    """The metadata of an exported file: the model's header as JSON, its SHA-256, and plain words.

    :raises ModelError: the model's recipe says nothing about its input.
    """
    return {
        HEADER: model.header.model_dump_json(),
        "model_sha256": model.sha256,
        "description": "\n".join(_words(model, exporter)),
    }


def facts_in_zip(data: bytes, key_of: Callable[[str], str]) -> dict[str, str]:
    """The facts that lie in a zip as members of their own.

    :param key_of: a member's name → the fact that it is, if it is one.
    :raises ValueError: the zip is damaged, or a fact is no UTF-8 or too large.
    """
    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                key = key_of(member.filename)
                if key in FACTS:
                    with archive.open(member) as file:
                        content = file.read(LARGEST_FACT + 1)
                    found[key] = _text(content)
    except _DAMAGED as error:
        raise ValueError(str(error)) from None
    return found


def _text(content: bytes) -> str:
    if len(content) > LARGEST_FACT:
        raise ValueError(f"a fact of more than {LARGEST_FACT:,} bytes")
    return content.decode()


def input_of(header: ModelHeader) -> NetworkInput:
    """What the network sees.

    :raises ModelError: the header does not say.
    """
    if header.recipe.input is None:
        raise ModelError("the model's recipe says nothing about the network's input")
    return header.recipe.input


def _words(model: Model, exporter: Exporter) -> list[str]:
    header = model.header
    seen = input_of(header)
    faces = "1" if exporter.batch == 1 else "N"
    return [
        f"Deepfake detector ({header.backbone}), exported by dfscan {__version__} from the model "
        f"with SHA-256 {model.sha256}, which dfscan {header.dfscan} wrote.",
        *(["Quantised to 8-bit integers: its logits are near the original's, not equal."]
          if exporter.fitted else []),
        f"Input {INPUT}: ({faces}, {seen.size}, {seen.size}, 3) uint8, channels last, RGB, 0 to "
        "255. Do not normalise: the network does it.",
        _picture(header.recipe, seen),
        f"Output {OUTPUT}: ({faces},) float32, a logit a face; higher = more fake.",
        _probability(header),
        f"The whole recipe is the JSON under {HEADER!r}.",
    ]  # fmt: skip


def _picture(recipe: FaceRecipe, seen: NetworkInput) -> str:
    square = {
        "stretch": "stretched to",
        "pad": "centred on black in",
        "grow": "its shorter side grown to the longer one, scaled to",
    }[seen.square]
    found = (
        "the picture is taken whole as the box"
        if recipe.detector.name == "none"
        else f"boxes come from {recipe.detector.name} ({recipe.detector.weights})"
    )
    stored = recipe.crop
    codec = f"{stored.codec} {stored.quality}" if stored.codec == "jpeg" else stored.codec
    return (
        f"A face is its box and {seen.margin:g} of the box's width and height on each side, clipped "
        f"to the frame, {square} a square by {seen.interpolation} interpolation with antialiasing; "
        f"{found}. The network learned from crops stored as {codec}."
    )


def _probability(header: ModelHeader) -> str:
    known = header.calibration
    if known is None:
        return (
            "The model is not calibrated: 1 / (1 + exp(-logit)) ranks faces, and is no probability."
            + _chosen(header)
        )
    people = f" + {known.people:.9g} * ln(people)" if known.people else ""
    threshold = header.threshold if known.threshold is None else known.threshold
    return (
        f"p_fake of a video = 1 / (1 + exp(-({known.scale:.9g} * score + {known.offset:.9g}{people}))), "
        f"where score is the {known.aggregation} of its faces' logits; FAKE from p_fake = "
        f"{threshold:.9g} on."
    )


def _chosen(header: ModelHeader) -> str:
    """From where on it is FAKE, where that was chosen on a user's own videos."""
    point = header.operating_point
    if point is None:
        return ""
    return (
        f" A video is FAKE from 1 / (1 + exp(-score)) = {header.threshold:.9g} on, where score is the "
        f"{point.aggregation} of its faces' logits."
    )
