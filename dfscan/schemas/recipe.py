"""The one recipe from pixels to numbers.

Everything between a video frame and a network's input is a :class:`FaceRecipe`. Extraction
writes it into ``dataset.json``, training into the model file, scoring into every verdict's
custody. Scoring replays the recipe of its model, the crop's codec included, so that a stored
face and a face found while scoring give the same logit.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dfscan.schemas.fingerprint import Strict, fingerprint, json_hash

Fraction = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]
SamplingMode = Literal["exact", "nearest", "keyframes"]
Square = Literal["stretch", "pad", "grow"]


class Stride(Strict):
    """Take every ``real``-th frame of a real video, every ``fake``-th of a fake one.

    Videos without a label use the first, ``real``. Unit: frames.
    """

    real: int = Field(30, ge=1)
    fake: int = Field(30, ge=1)

    def of(self, label: str | None) -> int:
        """The stride for a video with this label."""
        return self.fake if label == "FAKE" else self.real

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """Accept ``30``, ``"30"``, ``"real=30,fake=100"`` or a mapping."""
        if isinstance(value, int) and not isinstance(value, bool):
            return {"real": value, "fake": value}
        if isinstance(value, str):
            if "=" not in value:
                return {"real": value, "fake": value}
            parts = (part.partition("=") for part in value.split(","))
            pairs = {label.strip(): number for label, _, number in parts}
            if set(pairs) != {"real", "fake"}:
                raise ValueError("give one number, or both labels as real=30,fake=100")
            return pairs
        return value


class Sampling(Strict):
    """Which frames of a video are looked at. Exactly one of the three ways is set.

    ``stride``: every n-th frame, from an offset given by ``phase``. ``frames``: that many,
    spread evenly, and never sparser than one in 2 s. ``every_s``: one frame in so many seconds.

    ``phase="hash"`` starts each video at an offset taken from its SHA-256: starting all videos
    at frame 0 puts the I-frame there into a larger share of the fakes' samples than of the
    reals' (their stride is wider), and a network learns that instead of the forgery.

    ``mode`` says how much is decoded: ``exact`` takes those very frames; ``nearest`` leaves frames
    undecoded that no other is predicted from, ``keyframes`` all but key frames, and each takes the
    nearest of the rest. Frames of these kinds are compressed differently, and a network sees it:
    hence the mode is part of the recipe.
    """

    mode: SamplingMode = "exact"
    stride: Stride | None = None
    frames: int | None = Field(None, ge=1)
    every_s: float | None = Field(None, gt=0)
    phase: Literal["hash"] | Annotated[int, Field(ge=0)] = "hash"

    @model_validator(mode="after")
    def _exactly_one(self) -> "Sampling":
        given = [n for n in ("stride", "frames", "every_s") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of stride, frames, every must be set, got {given or 'none'}"
            )
        return self


class Detector(Strict):
    """How faces are found.

    ``name="none"`` takes each frame or picture whole, for material that is cropped already.
    ``min_face`` is the smallest face in pixels of the displayed frame; ``auto`` is
    max(20, min(60, short side / 18)). ``thresholds`` are MTCNN's for its three stages;
    ``min_score`` is the probability a face must reach to be stored. ``max_faces`` keeps that many
    a frame, the largest.
    """

    name: Literal["mtcnn", "none"] = Field(
        "mtcnn", description="Face detector; none: take each frame or picture whole"
    )
    weights: Literal["facenet-pytorch-2.5.3"] = "facenet-pytorch-2.5.3"
    min_face: Literal["auto"] | Annotated[int, Field(ge=12, le=4096)] = Field(
        "auto", description="Smallest face to detect in pixels, or auto"
    )
    thresholds: tuple[Fraction, Fraction, Fraction] = (0.6, 0.7, 0.7)
    factor: float = Field(0.709, gt=0.1, lt=1)
    min_score: Fraction = 0.95
    max_faces: int | None = Field(
        None, ge=1, description="Faces to keep per frame, the largest first (default: all)"
    )

    def min_face_px(self, width: int, height: int) -> int:
        """The smallest face looked for in a frame of this size, in pixels."""
        if self.min_face == "auto":
            return round(max(20, min(60, min(width, height) / 18)))
        return self.min_face


class Crop(Strict):
    """How a face is stored: the box plus ``context`` of its width and height on each side.

    The crop stays inside the frame (nothing is invented at a border; ``crop_box`` says what is
    there). It keeps its native resolution unless its longer side passes ``max_size`` pixels;
    then it is scaled down, antialiased. ``face_size`` scales every crop to that longer side.
    ``quality`` and ``subsampling`` are JPEG's; ``png`` and ``webp`` are lossless.
    """

    context: float = Field(
        0.6, ge=0, le=3, description="Margin to store on each side of the box, as a share of it"
    )
    max_size: int = Field(512, ge=16, le=4096)
    face_size: int | None = Field(
        None, ge=16, le=4096, description="Scale every stored face to this longer side in pixels"
    )
    codec: Literal["jpeg", "png", "webp"] = "jpeg"
    quality: int = Field(95, ge=1, le=100)
    subsampling: Literal["4:4:4"] = "4:4:4"
    interpolation: Literal["lanczos", "bicubic", "bilinear"] = "bicubic"


class NetworkInput(Strict):
    """What a network sees of a stored crop.

    The box plus ``margin`` on each side is cut out of the crop (clipped where the frame ends),
    made square by ``stretch`` (aspect ratio changes), ``pad`` (zeros around the centred
    picture) or ``grow`` (its shorter side grows about the centre to the longer one, and is
    stretched only where the crop ends before), scaled to ``size`` pixels with an antialiasing
    filter, divided by 255, then normalised as (x - mean) / std per RGB channel.
    """

    size: int = Field(ge=16, le=2048)
    margin: float = Field(0.3, ge=0, le=3)
    square: Square = "stretch"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)


class FaceRecipe(Strict):
    """Everything between a frame and a network's input, as one value.

    Boxes are (x0, y0, x1, y1) in pixels of the displayed frame, after rotation. ``input`` is
    null in a face dataset (no network yet) and set in a model.
    """

    box_convention: Literal["xyxy-displayed"] = "xyxy-displayed"
    sampling: Sampling
    detector: Detector = Field(default_factory=Detector)
    crop: Crop = Field(default_factory=Crop)
    input: NetworkInput | None = None

    def hash(self) -> str:
        """The :func:`~dfscan.schemas.fingerprint.fingerprint`: equal recipes, equal hashes."""
        return fingerprint(self)

    def legacy_hash(self) -> str:
        """The hash of recipes up to schema 1, over every value; records without a mark have it."""
        values = self.model_dump(mode="json")
        if values["detector"]["max_faces"] is None:
            del values["detector"]["max_faces"]
        return json_hash(values)


class ExtractionInputs(FaceRecipe):
    """Everything that decides about the content of a face dataset; ``input`` is never set.

    ``layout`` is where labels come from; larger files than ``max_bytes`` are not read.
    ``boxes_from``: ``original`` has the boxes of a fake taken from its original.
    """

    layout: str
    max_bytes: int
    boxes_from: str = "detected"

    def as_json(self) -> dict[str, Any]:
        """What ``dataset.json`` has of it."""
        return self.model_dump(mode="json", exclude={"input"})


class Head(Strict):
    """What turns a backbone's pooled features into one logit.

    ``linear``: one layer. ``mlp``: hidden layers of these widths, each followed by ReLU and, where
    given, a dropout of its own; then one layer.
    """

    kind: Literal["linear", "mlp"] = "linear"
    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = ()
    dropout: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()

    @model_validator(mode="after")
    def _widths_suit_the_kind(self) -> "Head":
        if self.kind == "mlp" and not self.hidden:
            raise ValueError("an mlp needs hidden widths, as in hidden: [1024, 512, 256]")
        if self.kind == "linear" and (self.hidden or self.dropout):
            raise ValueError("a linear head has no hidden layers or dropouts: kind must be mlp")
        if self.dropout and len(self.dropout) != len(self.hidden):
            raise ValueError(
                f"one dropout a hidden layer: got {len(self.dropout)} for {len(self.hidden)} layers"
            )
        return self
