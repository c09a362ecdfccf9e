"""Fingerprints of configurations, and the comparison of stored ones with today's.

A fingerprint leaves out what is at its default, so that a key added later changes none. A default
that changes must therefore raise the ``revision`` of its class.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, ValidationError

MARK: Final = "fingerprint"
"""Key of a record: 2 where its hash is a :func:`fingerprint`; before, it is a ``legacy_hash``."""

ALGORITHM: Final = 2


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know.

    ``revision`` is raised when a default changes. The validator is built at the first use, so that
    ``--help`` need not wait for it; nested models are made by a ``default_factory`` for the same reason.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", defer_build=True
    )
    revision: ClassVar[int] = 1


def fingerprint(model: Strict) -> str:
    """16 hex digits of the SHA-256 over type, revisions, and the values that are not defaults."""
    revisions = {type(part).__name__: part.revision for part in _parts(model) if part.revision > 1}
    values = model.model_dump(mode="json", exclude_defaults=True)
    return json_hash([type(model).__name__, model.revision, revisions, values])


def json_hash(value: Any) -> str:
    """16 hex digits of the SHA-256 over ``value`` as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changes_to(stored: Any, model: BaseModel, **dump: Any) -> list[str]:
    """Where a stored configuration differs from today's, as in :func:`differences`.

    The stored one is read as of today's type, so a key that it lacks has its default; one that
    cannot be read so is compared as it is.

    :param dump: passed to ``model_dump``.
    """
    with contextlib.suppress(ValidationError):
        stored = type(model).model_validate(stored).model_dump(mode="json", **dump)
    return differences(stored, model.model_dump(mode="json", **dump))


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """``["crop.context: 0.6 → 0.3"]``: where two JSON values differ, by dotted path."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            path = f"{at}.{key}" if at else key
            found += differences(old.get(key), new.get(key), path)
        return found
    return [] if old == new else [f"{at}: {json.dumps(old)} → {json.dumps(new)}"]


def _parts(model: BaseModel) -> Iterator[Strict]:
    """The model's own models, nested ones included."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Strict):
            yield value
            yield from _parts(value)
