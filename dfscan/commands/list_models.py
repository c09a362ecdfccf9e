"""``dfscan models list``: detectors that can be imported, where they are, under which licence."""

from dataclasses import dataclass
from typing import Any

from dfscan.config.list_models import ListModelsConfig
from dfscan.models.importers import IMPORTERS
from dfscan.models.importers.catalogue import Published
from dfscan.models.importers.mapping import load_mapping, shipped
from dfscan.pipeline.progress import Progress


@dataclass(frozen=True)
class ListModelsResult:
    """A row a detector that can be imported: ``kind``, ``mapping``, ``what``, ``where``, ``licence``,
    ``size`` in pixels, ``notes``."""

    rows: list[dict[str, Any]]
    exit_code: int = 0


def run(config: ListModelsConfig, progress: Progress) -> ListModelsResult:
    """What each kind, and each mapping file that comes with dfscan, can import."""
    del config, progress
    rows = [
        _row(kind, None, published)
        for kind, importer in IMPORTERS.items()
        for published in importer.published
    ]
    rows += [_row("mapping", name, load_mapping(name).published) for name in shipped()]
    return ListModelsResult(rows)


def _row(kind: str, mapping: str | None, published: Published) -> dict[str, Any]:
    return {
        "kind": kind,
        "mapping": mapping,
        "what": published.what,
        "where": published.where,
        "licence": published.licence,
        "size": published.size,
        "notes": list(published.notes),
    }
