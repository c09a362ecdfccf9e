"""Files of older and newer versions: columns and keys by name, renamed ones under both names.

``schema_version`` is "major.minor". A minor version adds columns or keys; a major version changes
what one means. Readers take every older version and newer minors, and refuse newer majors.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dfscan.errors import SourceError

ALIASES: Final[Mapping[str, Mapping[str, str]]] = {"faces": {}, "videos": {}, "verdicts": {}}
"""By kind of file: old column name → new name. Fields of nested columns included."""

REQUIRED: Final[Mapping[str, frozenset[str]]] = {
    "faces": frozenset({"video_id", "image"}),
    "videos": frozenset({"video_id", "status"}),
    "verdicts": frozenset({"video_id", "uri", "status", "verdict", "custody"}),
}
"""By kind of file: columns of every version; a table without them is none of ours."""

KEY_ALIASES: Final[Mapping[str, Mapping[str, str]]] = {}
"""By kind of JSON document: dotted path of an old key → its new name.

``*`` in a path stands for every element of a list and every key of an object.
"""

_KIND: Final = b"dfscan"
_VERSION: Final = re.compile(r"(\d{1,6})(?:\.(\d{1,6}))?")


class Version(NamedTuple):
    """A file's ``schema_version``."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


CURRENT: Final = Version(1, 0)
"""What this dfscan writes."""


def read_version(metadata: Mapping[Any, Any] | None, path: object) -> Version:
    """The ``schema_version`` of a Parquet file's metadata or of a JSON document; 1.0 if not stated.

    :param path: where it was read, for messages.
    :raises SourceError: it is no version, or its major version is newer than :data:`CURRENT`.
    """
    metadata = metadata or {}
    stated = metadata.get("schema_version", metadata.get(b"schema_version", "1.0"))
    text = stated.decode(errors="replace") if isinstance(stated, bytes) else str(stated)
    match = _VERSION.fullmatch(text)
    if match is None:
        raise SourceError(f"{path}: schema_version must be major.minor, got {text[:40]!r}")
    version = Version(int(match[1]), int(match[2] or 0))
    if version.major > CURRENT.major:
        raise SourceError(
            f"{path} has schema_version {version}, this dfscan reads up to {CURRENT.major}.x: "
            "upgrade dfscan"
        )
    return version


def conform(
    table: pa.Table,
    schema: pa.Schema,
    *,
    keep_unknown: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> pa.Table:
    """A table of any version with the columns of ``schema``, matched by name.

    Structs and lists of structs are conformed the same way. A missing column is null, renamed
    columns (:data:`ALIASES` of the schema's kind) are read under both names, types are cast.

    :param keep_unknown: keep columns and fields that ``schema`` lacks, after its own; set this
        where the result is written back. Otherwise the result has exactly ``schema``.
    :param defaults: column → value of a missing column instead of null.
    :return: a table with the metadata of both, ``schema``'s first.
    :raises pa.ArrowInvalid: a column that every version has is missing (:data:`REQUIRED`).
    :raises pa.ArrowException: a value does not fit our type.
    """
    if keep_unknown:
        schema = union(schema, table.schema)
    aliases = _aliases(schema)
    arrays = []
    for field in schema:
        at = _find(table.schema.names, field.name, aliases)
        if at is None:
            if field.name in REQUIRED.get(_kind(schema), ()):
                raise pa.ArrowInvalid(f"no column {field.name!r}")
            missing = pa.scalar((defaults or {}).get(field.name), field.type)
            arrays.append(pa.chunked_array([pa.repeat(missing, table.num_rows)], field.type))
        else:
            chunks = [_conformed(chunk, field.type, aliases) for chunk in table.column(at).chunks]
            arrays.append(pa.chunked_array(chunks, field.type))
    metadata = {**(table.schema.metadata or {}), **(schema.metadata or {})}
    return pa.Table.from_arrays(arrays, schema=schema.with_metadata(metadata))


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Tables of any versions one below the other, unknown columns kept; metadata of ``schema``."""
    tables = list(tables)
    for table in tables:
        schema = union(schema, table.schema)
    rows = [conform(table, schema).replace_schema_metadata(schema.metadata) for table in tables]
    return pa.concat_tables([schema.empty_table(), *rows])


def union(schema: pa.Schema, stored: pa.Schema) -> pa.Schema:
    """``schema`` with the columns and fields that only ``stored`` has, after its own."""
    fields = _united(list(schema), list(stored), _aliases(schema))
    return pa.schema(fields, metadata=schema.metadata)


def subset(schema: pa.Schema, names: Iterable[str]) -> pa.Schema:
    """Some columns of a schema in this order; ``custody.models`` is that field of the struct."""
    wanted: dict[str, list[str]] = {}
    for name in names:
        top, _, rest = name.partition(".")
        wanted.setdefault(top, []).append(rest)
    fields = [_narrowed(schema.field(name), rests) for name, rests in wanted.items()]
    return pa.schema(fields, metadata=schema.metadata)


def stored_columns(stored: pa.Schema, schema: pa.Schema, names: Iterable[str]) -> list[str]:
    """The names under which a Parquet file has some columns of ``schema``: what to ask it for.

    :param names: columns of ``schema``, nested ones as ``custody.models`` or, in a list, as
        ``frames.track_id``. Those that the file lacks are left out.
    """
    aliases = _aliases(schema)
    found = (_stored_path(list(stored), name.split("."), aliases) for name in names)
    return [path for path in found if path is not None]


def upgrade_keys(document: Any, kind: str) -> Any:
    """A JSON document with the keys of today, see :data:`KEY_ALIASES`; unknown keys are kept."""
    for path, new in KEY_ALIASES.get(kind, {}).items():
        *parents, old = path.split(".")
        document = _renamed(document, parents, old, new)
    return document


def _renamed(value: Any, parents: Sequence[str], old: str, new: str) -> Any:
    """The value with one key renamed; a copy as far as it changes."""
    if isinstance(value, list) and parents and parents[0] == "*":
        return [_renamed(each, parents[1:], old, new) for each in value]
    if not isinstance(value, dict):
        return value
    if parents:
        here, *rest = parents
        return {
            key: _renamed(each, rest, old, new) if here in ("*", key) else each
            for key, each in value.items()
        }
    if old not in value or new in value:
        return value
    return {new if key == old else key: each for key, each in value.items()}


def _kind(schema: pa.Schema) -> str:
    kind: bytes = (schema.metadata or {}).get(_KIND, b"")
    return kind.decode(errors="replace")


def _aliases(schema: pa.Schema) -> Mapping[str, str]:
    return ALIASES.get(_kind(schema), {})


def _find(names: Sequence[str], wanted: str, aliases: Mapping[str, str]) -> int | None:
    """The place of a column under its name or an older one."""
    known = [wanted, *(old for old, new in aliases.items() if new == wanted)]
    return next((names.index(name) for name in known if name in names), None)


def _conformed(array: pa.Array, kind: pa.DataType, aliases: Mapping[str, str]) -> pa.Array:
    if array.type.equals(kind):
        return array
    if pa.types.is_struct(kind) and pa.types.is_struct(array.type):
        names = [field.name for field in array.type]
        own = array.flatten()  # unlike field(), null where the struct is
        children = []
        for field in kind:
            at = _find(names, field.name, aliases)
            children.append(
                pa.nulls(len(array), field.type)
                if at is None
                else _conformed(own[at], field.type, aliases)
            )
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if pa.types.is_list(kind) and _is_list(array.type):
        # Offsets counted anew: those of a slice do not go together with a mask.
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        values = _conformed(array.flatten(), kind.value_type, aliases)
        return pa.ListArray.from_arrays(offsets, values, type=kind, mask=array.is_null())
    return array.cast(kind)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _united(
    ours: list[pa.Field], stored: list[pa.Field], aliases: Mapping[str, str]
) -> list[pa.Field]:
    """Our fields, widened by those of the stored that are unknown."""
    names = {field.name for field in ours}
    stored_names = [field.name for field in stored]
    fields = []
    for field in ours:
        at = _find(stored_names, field.name, aliases)
        kind = field.type
        if at is not None:
            kind = _united_type(kind, stored[at].type, aliases)
        fields.append(field.with_type(kind))
    unknown = [f for f in stored if f.name not in names and aliases.get(f.name) not in names]
    return [*fields, *unknown]


def _united_type(ours: pa.DataType, stored: pa.DataType, aliases: Mapping[str, str]) -> pa.DataType:
    if pa.types.is_struct(ours) and pa.types.is_struct(stored):
        return pa.struct(_united(list(ours), list(stored), aliases))
    if pa.types.is_list(ours) and _is_list(stored):
        field = ours.value_field
        return pa.list_(field.with_type(_united_type(field.type, stored.value_type, aliases)))
    return ours


def _narrowed(field: pa.Field, rests: list[str]) -> pa.Field:
    """A field with only some of its own fields; with all where one rest is empty."""
    if "" in rests:
        return field
    if pa.types.is_list(field.type):
        return field.with_type(pa.list_(_narrowed(field.type.value_field, rests)))
    inner = subset(pa.schema(list(field.type)), rests)
    return field.with_type(pa.struct(list(inner)))


def _stored_path(
    fields: list[pa.Field], parts: Sequence[str], aliases: Mapping[str, str]
) -> str | None:
    """``frames.track_id`` as Parquet names it in this file: ``frames.list.element.track_id``."""
    at = _find([field.name for field in fields], parts[0], aliases)
    if at is None:
        return None
    field, path, rest = fields[at], [fields[at].name], parts[1:]
    kind = field.type
    if rest and _is_list(kind):
        path += ["list", kind.value_field.name]
        kind = kind.value_type
    if not rest:
        return ".".join(path)
    inner = _stored_path(list(kind), rest, aliases) if pa.types.is_struct(kind) else None
    return None if inner is None else ".".join([*path, inner])
