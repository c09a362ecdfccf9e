"""File operations by path or URI: the local disk, or an object store through ``pyarrow.fs``.

The key after the bucket is taken literally, as the stores' own tools do: a space or a ``%`` is not
escaped. Endpoint, region and credentials come from the environment (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` …) and the usual files.
"""

import errno
import os
import re
import stat as modes
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import pyarrow as pa

from dfscan.errors import SourceError, StoreError
from dfscan.storage.blobs import LocalBlob, RangeReader, RemoteBlob, Span, retrying

SCHEMES: Final = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
THREADS: Final = 16
"""Concurrent requests: listing an object store mostly waits for the network."""
_URI: Final = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<place>[^/]*)/*(?P<key>.*)$")
_PASSWORD: Final = re.compile(r".*(:|%3a).*@", re.IGNORECASE)
_ENVIRONMENT: Final = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}
"""What to set instead of writing credentials into a URI."""
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")
_NOTHING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_STATS_A_CALL: Final = 64
_LOOKS: Final = 3
_MINUTE: Final = 60
_OPTIONS: Final = {
    "s3": "?allow_delayed_open=true",  # a small object needs one request instead of three
    "gs": "?retry_limit_seconds=60",  # the default is 15 minutes
    "gcs": "?retry_limit_seconds=60",
}
_AWS: Final = re.compile(
    r"AWS Error (?P<code>\w+) during \w+ operation: (?P<what>.+?)(?: \(Request ID: .*)?$"
)
T = TypeVar("T")
STORE_ERRORS: Final = (OSError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Stat:
    """What exists at a path. ``version`` is ``SIZE-MTIME_NS`` for files and for objects.

    Stores record whole seconds or milliseconds, and ``pyarrow.fs`` reports no etag: an object that
    is replaced within that time by one of the same size goes unnoticed.
    """

    bytes: int
    version: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Found:
    """A file below a folder, ``path`` relative to it."""

    path: str
    stat: Stat


def absolute(text: str | os.PathLike[str]) -> str:
    """An absolute path (``a/..`` folded, links kept), or an object-store URI.

    :raises SourceError: the URI has an unsupported scheme or contains a password.
    """
    path = os.fspath(text)
    uri = _URI.match(path)
    if not uri:
        return escape(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "a/..")
    scheme = uri["scheme"].lower()
    if _PASSWORD.match(uri["place"]) or (scheme == "s3" and "@" in uri["place"]):
        store = _ENVIRONMENT.get(scheme, "them in the environment")
        raise SourceError(
            f"a URI {scheme}://…@{uri['place'].rpartition('@')[2]} with credentials would be written "
            f"into every row: set {store} instead",
            code="source.credentials",
        )
    if scheme not in SCHEMES:
        allowed = ", ".join(f"{s}://" for s in SCHEMES)
        raise SourceError(f"{path!r} cannot be used; allowed: paths and {allowed}")
    if scheme == "file":
        return os.path.abspath("/" + unquote(uri["key"]))  # noqa: PTH100
    key = uri["key"].rstrip("/")
    if "//" in key or (scheme in {"s3", "gs", "gcs"} and not uri["place"]):
        raise SourceError(f"{path!r} has no name between two slashes, which pyarrow cannot open")
    return f"{scheme}://{uri['place']}" + (f"/{key}" if key else "")


def is_uri(text: str) -> bool:
    """Whether the text is a URI rather than a path."""
    return _URI.match(text) is not None


def is_remote(path: str) -> bool:
    """Whether a path returned by :func:`absolute` is on an object store."""
    return is_uri(path)


def is_hidden(path: str) -> bool:
    """Whether a path component starts with a dot, or is macOS archive metadata."""
    return any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))


def stat(path: str) -> Stat | None:
    """Size, version and kind of what is at the path; None if nothing is there.

    :raises OSError: the path cannot be inspected."""
    if is_remote(path):
        [info] = _infos([path])
        return info
    try:
        found = os.stat(_on_disk(path))  # noqa: PTH116
    except ValueError:  # a null byte
        return None
    except OSError as error:
        if error.errno in _NOTHING:
            return None
        raise
    if not (modes.S_ISREG(found.st_mode) or modes.S_ISDIR(found.st_mode)):
        return None
    version = f"{found.st_size}-{found.st_mtime_ns}"
    return Stat(found.st_size, version, modes.S_ISDIR(found.st_mode))


def stat_all(paths: Sequence[str]) -> list[Stat | None]:
    """:func:`stat` of many; those on an object store in few calls.

    :raises OSError: one of them cannot be inspected.
    """
    result: dict[str, Stat | None] = {}
    stores: dict[str, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        if is_remote(path):
            stores["/".join(path.split("/", 3)[:3])].append(path)
        else:
            result[path] = stat(path)
    calls = [
        ps[i : i + _STATS_A_CALL]
        for ps in stores.values()
        for i in range(0, len(ps), _STATS_A_CALL)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        for asked, infos in zip(calls, pool.map(_infos, calls), strict=True):
            result |= zip(asked, infos, strict=True)
    return [result[p] for p in paths]


def modified_s(path: str) -> float:
    """When an object was written, by its store's clock, in seconds since the epoch.

    :raises FileNotFoundError: it is gone.
    """
    found = stat(path)
    if found is None:
        raise FileNotFoundError(path)
    return int(found.version.rpartition("-")[2]) / 1e9


def version(path: str) -> str:
    """``SIZE-MTIME_NS``, to detect a replaced file; cached for a minute for objects.

    :raises FileNotFoundError: it is gone.
    """
    if is_remote(path):
        return _version_lately(path, int(time.monotonic() // _MINUTE))
    found = stat(path)
    if found is None:
        raise FileNotFoundError(path)
    return found.version


@lru_cache(maxsize=64)
def _version_lately(path: str, minute: int) -> str:
    del minute  # part of the key
    found = stat(path)
    if found is None:
        raise FileNotFoundError(path)
    return found.version


def walk(root: str) -> Iterator[Found]:
    """Yield every file below a folder except hidden ones. Each linked folder is followed once.

    :raises SourceError: a folder cannot be listed.
    """
    return _walkfilesystem(root) if is_remote(root) else _walk_disk(root)


def open_blob(path: str) -> Span:
    """Open a file for random access.

    :raises OSError: it cannot be opened.
    """
    blob: LocalBlob | RemoteBlob
    if is_remote(path):
        store, name = filesystem(path)
        blob = RemoteBlob(retrying(lambda: store.open_input_file(name)))
    else:
        blob = LocalBlob(_on_disk(path))
    return Span(blob, 0, blob.size)


def children(folder: str, hidden: bool = False) -> list[str]:
    """The sorted names in a folder; empty if the folder does not exist.

    :param hidden: also those that begin with a dot.

    :raises OSError: it cannot be listed.
    """
    if not is_remote(folder):
        try:
            names = os.listdir(_on_disk(folder))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
    else:
        from pyarrow import fs

        store, name = filesystem(folder)
        asked = fs.FileSelector(name, allow_not_found=True)
        infos = retrying(lambda: store.get_file_info(asked))
        names = [i.base_name for i in infos if i.base_name]
    return sorted(n for n in names if hidden or not is_hidden(n))


def put(path: str, data: bytes | pa.Buffer) -> None:
    """Put an object in one write: pyarrow completes an upload even if an exception interrupts it.

    :raises OSError: the store refuses it.
    """
    store, name = filesystem(path)

    def whole() -> None:
        stream = store.open_output_stream(name)
        stream.write(data)
        stream.close()

    retrying(whole)


def delete(path: str) -> None:
    """Remove an object, or a whole folder; a missing one is no error.

    :raises OSError: the store refuses.
    """
    found = stat(path)
    if found is None:
        return
    store, name = filesystem(path)
    try:
        retrying(lambda: (store.delete_dir if found.is_folder else store.delete_file)(name))
    except FileNotFoundError:  # removed concurrently
        return


def open_file(path: str) -> Any:
    """Open a file for sequential reading.

    :raises OSError: it cannot be opened.
    """
    return RangeReader(open_blob(path)) if is_remote(path) else Path(_on_disk(path)).open("rb")


@contextmanager
def store_errors(path: str) -> Iterator[None]:
    """Turn an object store's errors into a one-line StoreError; other errors pass unchanged.

    :raises StoreError: the store cannot be reached, or refuses.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except STORE_ERRORS as error:
        if is_remote(path):
            raise StoreError(f"{path} cannot be reached: {one_line(error)}") from None
        raise


class ObjectFile(RangeReader):
    """An object as a file, for readers that would mistake a network error for damage.

    :raises StoreError: on reading, if the store does not answer.
    """

    def __init__(self, path: str) -> None:
        super().__init__(open_blob(path))
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        """See :meth:`io.RawIOBase.read`."""
        with store_errors(self._path):
            return super().read(size)


def read_unchanged(path: str, read: Callable[[], T]) -> T:
    """The result of ``read``, repeated until the file was not replaced during the read.

    An open file on a disk keeps its old content. Of an object the length was asked for before, and what
    replaced it would be cut off or filled up.

    :raises StoreError: the store does not answer, or the object is replaced again and again.
    """
    if not is_remote(path):
        return read()
    with store_errors(path):
        before = stat(path)
    for _ in range(_LOOKS):
        found = read()
        with store_errors(path):
            after = stat(path)
        if before == after:
            return found
        before = after
    raise StoreError(f"{path} is being replaced all the time: try again later")


def one_line(error: BaseException) -> str:
    """An error's text on one line of at most 300 characters."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    told = _AWS.search(text)
    text = f"{told['code']}, {told['what']}" if told else text
    return text if len(text) <= 300 else text[:299] + "…"


def escape(name: str) -> str:
    """Escape the bytes of a name that are not UTF-8: ``caf\\xe9.mp4``."""
    try:
        name.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(name).decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # a lone surrogate, which no file name has
            return name.encode("utf-8", "backslashreplace").decode()
    return name


def _on_disk(path: str) -> str:
    """Undo :func:`escape`, unless a file has the escaped name."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return os.fsdecode(_ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), os.fsencode(path)))


def _walk_disk(root: str) -> Iterator[Found]:
    seen: set[str] = set()
    root = _on_disk(root)
    for folder, subfolders, names in os.walk(root, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent, or to a folder already listed
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(d for d in subfolders if not is_hidden(d))
        inside = os.path.relpath(folder, root)
        before = "" if inside == "." else f"{inside}/"
        for name in names:
            found = None if is_hidden(name) else _stat_below(f"{folder}/{name}")
            if found is not None:
                yield Found(escape(before + name), found)


def _stat_below(path: str) -> Stat | None:
    try:
        return stat(path)
    except OSError as error:
        _cannot_list(error)
        raise


def _cannot_list(error: OSError) -> None:
    raise SourceError(
        f"cannot list {error.filename}: {error.strerror}", code="source.unreadable"
    ) from None


def _walkfilesystem(root: str) -> Iterator[Found]:
    from pyarrow import fs

    try:
        store, name = filesystem(root)
        infos = retrying(lambda: store.get_file_info(fs.FileSelector(name, recursive=True)))
    except STORE_ERRORS as error:
        raise SourceError(
            f"cannot list {root}: {one_line(error)}", code="source.unreadable"
        ) from None
    for info in infos:
        inside = info.path.removeprefix(name).lstrip("/")
        if info.type == fs.FileType.File and not is_hidden(inside):
            yield Found(inside, _stat_of(info))


def _infos(paths: Sequence[str]) -> list[Stat | None]:
    """Stat several paths of the same store."""
    from pyarrow import fs

    store = filesystem(paths[0])[0]
    names = [filesystem(p)[1] for p in paths]
    infos = retrying(lambda: store.get_file_info(names))
    return [None if i.type == fs.FileType.NotFound else _stat_of(i) for i in infos]


def _stat_of(info: Any) -> Stat:
    if info.size is None:
        return Stat(0, "", True)
    return Stat(info.size, f"{info.size}-{info.mtime_ns}", False)


def filesystem(uri: str) -> tuple[Any, str]:
    """The pyarrow file system for a URI, and the object's name in it."""
    match = _URI.match(uri)
    assert match is not None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    store, root = _connect(match["scheme"], match["place"], endpoint)
    root = root.rstrip("/")
    return store, f"{root}/{match['key']}" if match["key"] else root or "/"


@lru_cache(maxsize=64)
def _connect(scheme: str, place: str, endpoint: str | None) -> tuple[Any, str]:
    """One connection per bucket and process, made at the first use."""
    del endpoint  # read by pyarrow itself; part of the key
    from pyarrow import fs

    store, root = fs.FileSystem.from_uri(f"{scheme}://{place}/{_OPTIONS.get(scheme, '')}")
    return store, root
