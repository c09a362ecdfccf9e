"""What ``dfscan inspect`` returns."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class InspectResult:
    """What something is: its ``kind``, ``facts`` by name, and a table of its parts or faces."""

    path: str
    kind: str
    facts: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int = 0
