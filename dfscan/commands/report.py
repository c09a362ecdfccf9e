"""``dfscan report``: one page about a face dataset, a run, verdicts or an evaluation."""

from dfscan.reports.build import run

__all__ = ["run"]
