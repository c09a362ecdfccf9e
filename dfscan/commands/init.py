"""``dfscan init``: a commented ``dfscan.yaml`` for this folder."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from dfscan import storage
from dfscan.config.loading import CONFIG_FILE
from dfscan.corpora.base import MEDIA_SUFFIXES
from dfscan.errors import OutputError

_ARCHIVES = frozenset((".zip", ".tar"))

_TEMPLATE = """\
# dfscan reads this file in the folder it is started in. Flags win over it; --set VERB.KEY=VALUE
# reaches every key. Unknown keys are refused before any work.
# Keys behind a # show their defaults; --preset NAME can set them.

run:
  # workers: 8             # processes (default: one a CPU)
  # gpus: 1                # GPUs to use (default: none)
  # ray_address: auto      # a Ray cluster (default: a local Ray is started)
  # inline: true           # no Ray, everything in one process

extract:                   # videos -> faces
  source: {source}
  out: {faces}
  # layout: auto           # where labels come from: auto, dfdc, ffpp, celebdf, folders, flat
  # stride: 30             # every 30th frame; per label: {{real: 30, fake: 100}}
  # boxes_from: detected   # original: cut fakes where their original's faces are
  # timeout: 120           # seconds a video may take, and one more a megabyte
  # phase: hash            # each video starts at its own offset; 0: all at frame 0
  # detector:
  #   min_face: auto       # pixels; auto = max(20, min(60, short side / 18))
  #   min_score: 0.95      # probability a face must reach
  #   name: mtcnn          # none: take each picture or frame whole
  # crop:
  #   context: 0.6         # stored around the box, as a share of it; models cut their margin from it
  #   max_size: 512        # pixels; larger crops are scaled down

train:                     # faces -> a classifier
  faces: [{faces}]
  out: {run}
  # backbone: mesoinception4   # or any timm model: efficientnet_b0, resnet50, xception41 ...
  # epochs: 10
  # batch_size: 32
  # lr: 0.001

score:                     # videos -> one verdict each
  source: {source}
  model: {run}
  out: {verdicts}
  # frames: 32             # spread evenly, never sparser than one in 2 s
"""


def init(
    folder: str = ".",
    *,
    source: str | None = None,
    faces: str = "faces",
    run: str = "run",
    verdicts: str = "verdicts.parquet",
    overwrite: bool = False,
) -> Path:
    """Write ``dfscan.yaml`` into ``folder``; returns its path.

    :param source: where the videos are; None takes :func:`guess_source`'s answer.
    :raises OutputError: there is one already and ``overwrite`` is not set.
    """
    path = Path(folder) / CONFIG_FILE
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already: edit it, or --overwrite", code="output.exists")
    values = {
        "source": source or guess_source(folder),
        "faces": faces,
        "run": run,
        "verdicts": verdicts,
    }
    quoted = {
        k: yaml.safe_dump(v, default_style=None, width=10_000).splitlines()[0]
        for k, v in values.items()
    }
    storage.commit_bytes(path, _TEMPLATE.format(**quoted).encode())
    return path


def guess_source(folder: str = ".") -> str:
    """The first folder or archive here that holds media; the folder itself if they lie in it."""
    root = Path(folder)
    for path in _candidates(root):
        if path.suffix.lower() in _ARCHIVES or any(_media(path)):
            return path.relative_to(root).as_posix()
    return "."


def _candidates(root: Path) -> Iterator[Path]:
    children = sorted(p for p in root.iterdir() if not p.name.startswith("."))
    yield from (p for p in children if p.is_dir())
    yield from (p for p in children if p.suffix.lower() in _ARCHIVES)


def _media(folder: Path, depth: int = 4) -> Iterator[Path]:
    """Videos, pictures and archives in a folder, a few floors down."""
    if depth == 0:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _media(path, depth - 1)
        elif path.suffix.lower() in MEDIA_SUFFIXES | _ARCHIVES:
            yield path
