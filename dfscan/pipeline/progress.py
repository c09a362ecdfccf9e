"""What a job tells while it runs. The base class keeps silent; the command line draws it."""

from dfscan.pipeline.work_units import UnitResult


class Progress:
    """Override what should be shown. Every method may be called from the driver only.

    ``live``: someone watches a terminal, so work in this process may draw bars of its own there.
    """

    live = False

    def start(self, what: str, total: int, unit: str) -> None:
        """A stretch of work begins: ``total`` of ``unit`` (videos, epochs), all to be done."""

    def advance(self, by: int, result: UnitResult | None = None) -> None:
        """So many are done; ``result`` counts what they came to."""

    def message(self, message: str) -> None:
        """One line worth reading."""

    def stop(self) -> None:
        """The stretch of work is over."""
