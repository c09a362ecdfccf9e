"""The record in a verdict file's metadata of how its rows were made.

The record is a JSON object: ``config_hash`` of the rows → everything that decided about them, the
recipe in full. With the model it is enough to make the rows again. ``calibrations``, which follow from
the models and so are no part of the fingerprint, are there to decide about rows again without them
(:mod:`dfscan.scoring.redecision`).
"""

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from dfscan import storage
from dfscan.errors import ConfigError, SourceError
from dfscan.schemas.fingerprint import json_hash
from dfscan.schemas.recipe import FaceRecipe
from dfscan.verdicts.table import verdict_files

KEY: Final = b"dfscan.score"

FOLLOWING: Final = frozenset({"calibrations"})
"""Keys of a record that follow from its models."""


def records(where: storage.StoragePath) -> dict[str, Any]:
    """What verdicts were made with, by ``config_hash``; {} where their files do not say.

    :raises SourceError: the entry in a file's metadata is damaged.
    """
    found: dict[str, Any] = {}
    for file in verdict_files(where):
        found |= _records(file)
    return found


def _records(file: storage.StoragePath) -> dict[str, Any]:
    text = (storage.open_parquet(file).schema_arrow.metadata or {}).get(KEY)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _damaged(file, str(error)) from None
    if not isinstance(found, dict) or not all(_is_record(value) for value in found.values()):
        raise _damaged(file, "not an object of objects with models")
    return found


def _is_record(value: Any) -> bool:
    models = value.get("models") if isinstance(value, dict) else None
    return isinstance(models, list) and all(isinstance(sha256, str) for sha256 in models)


def _damaged(file: storage.StoragePath, how: str) -> SourceError:
    return SourceError(
        f"{file}: the record of how it was scored (metadata {KEY.decode()}) is damaged "
        f"({' '.join(how.split())[:80]}): score again with --overwrite",
        code="record.damaged",
    )


def with_records(table: pa.Table, found: Mapping[str, Any]) -> pa.Table:
    """The table with these records in its metadata, but for those that no row refers to."""
    used = set(pc.struct_field(table.column("custody"), "config_hash").to_pylist())
    kept = {name: found[name] for name in sorted(found) if name in used}
    text = json.dumps(kept, sort_keys=True).encode()
    return table.replace_schema_metadata({**(table.schema.metadata or {}), KEY: text})


def recipe_of(record: Mapping[str, Any]) -> FaceRecipe:
    """The recipe in a record.

    :raises ConfigError: this dfscan does not know such a recipe.
    """
    try:
        return FaceRecipe.model_validate(record.get("recipe"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["recipe", *(str(k) for k in first["loc"])])
        raise ConfigError(
            f"its recorded {where} is not known here ({first['msg']}): use the dfscan that scored it",
            code="record.unsupported",
        ) from None


def hash_of(record: Mapping[str, Any]) -> str:
    """The ``config_hash`` that a record comes to; another than its own: it was changed.

    :raises ConfigError: as in :func:`recipe_of`.
    """
    inputs = {key: value for key, value in record.items() if key not in FOLLOWING}
    return json_hash({**inputs, "recipe": recipe_of(record).legacy_hash()})
