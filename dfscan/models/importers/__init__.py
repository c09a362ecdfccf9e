"""Published detectors as models of dfscan: an importer is one file and one line here."""

from collections.abc import Mapping
from typing import Final

from dfscan.models.importers import catalogue, dfdc_winner, mapping, mesonet
from dfscan.models.importers.base import Imported, Importer

IMPORTERS: Final[Mapping[str, Importer]] = {
    "mesonet": Importer(mesonet.read, (catalogue.MESONET,)),
    "dfdc-winner": Importer(dfdc_winner.read, (catalogue.DFDC_WINNER,)),
    "mapping": Importer(mapping.read, needs_mapping=True),
}

__all__ = ["IMPORTERS", "Imported", "Importer"]
