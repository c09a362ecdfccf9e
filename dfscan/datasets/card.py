"""The dataset card of a face dataset."""

from typing import Any

from dfscan import __version__
from dfscan.schemas.recipe import FaceRecipe


def dataset_card(recipe: FaceRecipe, counts: dict[str, Any]) -> str:
    """The dataset card in Markdown, with the metadata block that dataset hubs read."""
    rows = "\n".join(f"| {k} | {v:,} |" for k, v in counts["status"].items())
    labels = ", ".join(f"{v:,} {k}" for k, v in counts["label"].items())
    sampling = recipe.sampling.model_dump(exclude_none=True)
    return f"""---
configs:
- config_name: faces
  data_files: faces/*.parquet
  default: true
- config_name: videos
  data_files: videos/*.parquet
---

# Faces extracted by dfscan {__version__}

{counts["faces"]:,} faces from {counts["frames_sampled"]:,} frames of {counts["videos"]:,} videos ({labels}).

| status | videos |
|---|---|
{rows}

- Sampling: `{sampling}`
- Detector: `{recipe.detector.model_dump()}`
- Crop: `{recipe.crop.model_dump()}`
- Recipe hash: `{recipe.hash()}`

`faces/*.parquet` has one row per face, `videos/*.parquet` one row per video of the source,
including failed ones with their reason. Faces are personal data: keep to the terms of the source,
and remove videos on request with `dfscan purge`.
"""
