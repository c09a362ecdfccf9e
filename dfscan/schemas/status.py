"""What a video can be, and what can become of it: labels and statuses. Imports nothing heavy."""

from typing import Final, Literal

Label = Literal["REAL", "FAKE"]


LABELS: Final[tuple[Label, Label]] = ("REAL", "FAKE")
"""In class-index order: a model's single logit is the evidence for class 1, FAKE."""


STATUSES: Final = (
    "missing",
    "too_large",
    "not_video",
    "unsupported",
    "refused",
    "crashed",
    "timeout",
    "decode_error",
    "partial",
    "no_face",
    "ok",
)
"""What became of a video; the first that applies."""


SUCCEEDED: Final = frozenset({"ok", "no_face", "partial"})
"""Every other status counts as failed (``--max-failed``)."""


UNREAD: Final = frozenset({"missing", "too_large", "not_video", "unsupported", "refused"})
"""Of videos with these no frame was asked for: another way of sampling would not help."""


RETRIED: Final = frozenset({"missing"})
"""Statuses that every later run looks at again; ``--retry`` names others."""
