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
# dfscan reads this file from the folder in which it is started. Flags override it, and
# --set COMMAND.KEY=VALUE sets any key. Unknown keys are refused before any work starts.
# Commented keys show their defaults; --preset NAME can change them.

run:
  # workers: 8             # processes (default: one per CPU)
  # gpus: 1                # GPUs to use (default: none)
  # ray_address: auto      # an existing Ray cluster (default: start a local Ray)
  # inline: true           # everything in one process, without Ray

extract:                   # videos -> faces
  source: {source}
  out: {faces}
  # layout: auto           # where labels come from: auto, dfdc, ffpp, celebdf, folders, flat
  # stride: 30             # every 30th frame; per label: {{real: 30, fake: 100}}
  # boxes_from: detected   # original: crop fakes where the faces of their originals are
  # timeout: 120           # time limit per video in seconds, plus one per megabyte
  # phase: hash            # each video starts at its own offset; 0: all start at frame 0
  # detector:
  #   min_face: auto       # smallest face in pixels; auto: max(20, min(60, short side / 18))
  #   min_score: 0.95      # smallest probability of a face
  #   name: mtcnn          # none: use each picture or frame whole
  # crop:
  #   context: 0.6         # stored margin, as a share of the box; models cut their own margin from it
  #   max_size: 512        # longest side in pixels; larger crops are scaled down

train:                     # faces -> a classifier
  faces: [{faces}]
  out: {run}
  # backbone: mesoinception4   # or any timm model: efficientnet_b0, resnet50, xception41 ...
  # epochs: 10
  # batch_size: 32
  # lr: 0.001

score:                     # videos -> one verdict per video
  source: {source}
  model: {run}
  out: {verdicts}
  # frames: 32             # per video, evenly spread, at least one every 2 s
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

    :param source: path of the videos; None uses the result of :func:`guess_source`.
    :raises OutputError: the file exists and ``overwrite`` is not set.
    """
    path = Path(folder) / CONFIG_FILE
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already: edit it, or replace it with --overwrite", code="output.exists"
        )
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
    """Return the first subfolder or archive that holds media, relative to ``folder``, or ``"."``."""
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
    """Yield videos, pictures and archives in a folder, at most ``depth`` levels deep."""
    if depth == 0:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _media(path, depth - 1)
        elif path.suffix.lower() in MEDIA_SUFFIXES | _ARCHIVES:
            yield path
