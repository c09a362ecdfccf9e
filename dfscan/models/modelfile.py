"""``model.safetensors``: weights, and in the header everything needed to use them.

One file holds the architecture, the :class:`~dfscan.schemas.recipe.FaceRecipe` its faces were made with,
the order of labels, the threshold and the state of calibration. Nothing is ever unpickled.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from dfscan import __version__, storage
from dfscan.errors import ConfigError, ModelError, VideoError
from dfscan.models.backbones import create_network
from dfscan.models.weights import refuse_pickle
from dfscan.schemas.fingerprint import Strict
from dfscan.schemas.recipe import FaceRecipe, Head, SamplingMode
from dfscan.schemas.scoring import Aggregation
from dfscan.schemas.status import LABELS
from dfscan.scoring.calibration import Calibration
from dfscan.scoring.operating_point import OperatingPoint

FILE_NAME: Final = "model.safetensors"
FORMAT: Final = 4
_KEY: Final = "dfscan"
_REMEDY: Final = f"give a {FILE_NAME} as dfscan train writes it, copied whole"


class Triage(Strict):
    """When a look at a video's key frames is enough.

    Videos with a ``p_fake`` from ``deep_if`` on, by the ``calibration`` of that look, are looked at in
    full. Of ``flagged`` fakes that the full look calls FAKE at least the share ``recall`` does go there
    (one-sided 95 % bound of Clopper and Pearson).
    """

    calibration: Calibration
    deep_if: float = Field(ge=0, le=1)
    flagged: int = Field(ge=1)
    recall: float = Field(ge=0, le=1)


class ModelHeader(Strict):
    """What a model file says of itself.

    ``labels`` are in the order of class indices; the single output is the logit of the last.
    ``threshold`` is on ``p_fake``. ``calibration`` is null for a model that has none;
    ``calibrations`` and ``triage``, since format 3, are for other ways of aggregating and sampling.
    ``head`` came with format 2; the heads of format 1 are linear. ``operating_point``, since format
    4, says how the threshold was chosen on a user's own videos.
    """

    format: int = FORMAT
    dfscan: str = __version__
    backbone: str
    head: Head = Head()
    recipe: FaceRecipe
    labels: tuple[str, str] = LABELS
    threshold: float = Field(0.5, ge=0, le=1)
    calibration: Calibration | None = None
    calibrations: tuple[Calibration, ...] = ()
    triage: Triage | None = None
    operating_point: OperatingPoint | None = None
    training: dict[str, Any] = Field(default_factory=dict)

    def calibrated(self, aggregation: Aggregation, mode: SamplingMode) -> Calibration | None:
        """The calibration for one way of aggregating and one of sampling; None: there is none."""
        known = (*((self.calibration,) if self.calibration else ()), *self.calibrations)
        wanted = (aggregation, mode)
        return next((c for c in known if (c.aggregation, c.sampling.mode) == wanted), None)

    def decides(self, aggregation: Aggregation, mode: SamplingMode) -> bool:
        """Whether the threshold was chosen for such scores on a user's own videos: then it holds
        without a calibration too."""
        point = self.operating_point
        return point is not None and (point.aggregation, point.sampling.mode) == (aggregation, mode)


@dataclass(frozen=True)
class Model:
    """A loaded model: header, network in evaluation mode, and the SHA-256 of its file."""

    header: ModelHeader
    network: nn.Module
    sha256: str


def save_model(path: storage.PathLike, network: nn.Module, header: ModelHeader) -> str:
    """Write a model atomically; returns the SHA-256 of the file."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    data = save_tensors(tensors, metadata={_KEY: header.model_dump_json()})
    storage.commit_bytes(path, data)
    return storage.sha256(data)


def find_model(path: str | None) -> storage.StoragePath:
    """The model file a user means: a file, or a run folder that holds one.

    :raises ModelError: there is none; the message says how to get one.
    """
    if path is None:
        raise ModelError(
            "no model: give --model FILE (or score.model in dfscan.yaml); dfscan train FACES "
            "--out DIR makes one",
            code="model.missing",
        )
    found = storage.as_path(path)
    if storage.is_folder(found):
        found = found / FILE_NAME
    if not storage.is_file(found):
        raise ModelError(
            f"no model at {path!r}: give a {FILE_NAME} or a run folder; dfscan train FACES --out "
            "DIR makes one",
            code="model.missing",
        )
    return found.absolute()


def read_header(path: storage.StoragePath) -> ModelHeader:
    """The header alone; no tensor is read.

    :raises ModelError: the file is not a dfscan model.
    """
    start = storage.read_start(path, 9)
    length = int.from_bytes(start[:8], "little")
    refuse_pickle(path, start)
    if len(start) < 8 or not 0 < length <= 64 << 20:
        raise ModelError(f"{path} is not a safetensors file, or is cut off: {_REMEDY}")
    text = storage.read_start(path, 8 + length)[8:]
    try:
        metadata = json.loads(text).get("__metadata__") or {}
        written = metadata[_KEY]
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{path} is not a safetensors file, or is damaged: {_REMEDY}") from None
    except KeyError:
        raise ModelError(
            f"{path} holds tensors but no dfscan header, it is another program's model: {_REMEDY}"
        ) from None
    return parse_header(path, written)


def parse_header(path: storage.StoragePath, text: str) -> ModelHeader:
    """The header of a model, or of a file that was made of one, from its JSON.

    :raises ModelError: it is none, or of a newer dfscan.
    """
    try:
        content = json.loads(text)
        written = content.get("format", 0)
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise ModelError(f"{path}: its dfscan header is damaged: copy the file again") from None
    if isinstance(written, int) and written > FORMAT:
        raise ModelError(
            f"{path} has model format {written} (dfscan {content.get('dfscan')}); this dfscan reads "
            f"up to {FORMAT}: upgrade dfscan",
            code="model.unsupported",
        )
    try:
        return ModelHeader.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(k) for k in first["loc"])
        raise ModelError(f"{path}: its header is not valid at {where!r}: {first['msg']}") from None


def load_model(path: storage.StoragePath) -> Model:
    """Header, network and digest of a model file.

    :raises ModelError: the file is missing, damaged, a pickle, or its tensors do not fit.
    """
    header = read_header(path)
    try:
        data = storage.read_bytes(str(path))
        tensors = load_tensors(data)
    except (SafetensorError, VideoError) as error:
        raise ModelError(f"{path} is damaged or cut off ({error}): {_REMEDY}") from None
    if header.recipe.input is None:
        raise ModelError(f"{path}: its recipe says nothing about the network's input")
    try:
        network = create_network(header.backbone, header.recipe.input.size, head=header.head)
    except ConfigError as error:
        raise ModelError(f"{path}: its network cannot be made here: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: its tensors do not fit {header.backbone}: {detail}") from None
    return Model(header, network.eval(), hashlib.sha256(data).hexdigest())
