"""Files and folders by path or by URI: the disk, or an object store through ``pyarrow.fs``.

Whatever stands after the bucket of a URI is taken as it is, as the stores' own tools do: a space
or a ``%`` in a key is not escaped. Endpoint, region and credentials come from the environment
(``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` …) and the usual files.
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
from dfscan.storage.blobs import LocalBlob, RemoteBlob, Span, Window, retrying

SCHEMES: Final = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
THREADS: Final = 16
"""Requests under way at once: listing an object store waits, it does not work."""
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
    "s3": "?allow_delayed_open=true",  # a small object is one request, not the three of an upload in parts
    "gs": "?retry_limit_seconds=60",  # by default it goes on trying for a quarter of an hour
    "gcs": "?retry_limit_seconds=60",
}
_AWS: Final = re.compile(
    r"AWS Error (?P<code>\w+) during \w+ operation: (?P<what>.+?)(?: \(Request ID: .*)?$"
)
T = TypeVar("T")
STORE_ERRORS: Final = (OSError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Stat:
    """What lies at a place. ``version`` is its size and mtime_ns, of a file and of an object.

    Stores keep whole seconds or milliseconds, and ``pyarrow.fs`` does not tell an etag: an object
    replaced within that time by one of the same size is not noticed.
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
    """An absolute path (``a/..`` folded, links kept), or an object store's URI.

    :raises SourceError: a URI of a kind that cannot be read, or one with a password in it.
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
    """Whether a text is a URI and no path."""
    return _URI.match(text) is not None


def is_remote(path: str) -> bool:
    """Whether a place returned by :func:`absolute` is on an object store."""
    return is_uri(path)


def is_hidden(path: str) -> bool:
    """Names with a dot in front, and what Macs add to archives."""
    return any(p.startswith(".") or p == "__MACOSX" for p in path.split("/"))


def stat(path: str) -> Stat | None:
    """What lies there; None for nothing.

    :raises OSError: it cannot be told.
    """
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

    :raises OSError: one of them cannot be told.
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
    """When an object was written, by the clock of its store, seconds since the epoch.

    :raises FileNotFoundError: it is gone.
    """
    found = stat(path)
    if found is None:
        raise FileNotFoundError(path)
    return int(found.version.rpartition("-")[2]) / 1e9


def version(path: str) -> str:
    """Size and mtime_ns, to see whether a file was replaced; an object's is asked once a minute.

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
    """Every file below a folder, hidden ones left out. Links to folders are followed, each once.

    :raises SourceError: a folder cannot be listed.
    """
    return _walkfilesystem(root) if is_remote(root) else _walk_disk(root)


def open_blob(path: str) -> Span:
    """A file to read anywhere in.

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
    """The names of what lies in a folder; none where it is not there.

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
    """Put an object in one piece: pyarrow completes an upload that an exception has ended half-way.

    :raises OSError: the store does not take it.
    """
    store, name = filesystem(path)

    def whole() -> None:
        stream = store.open_output_stream(name)
        stream.write(data)
        stream.close()

    retrying(whole)


def delete(path: str) -> None:
    """Remove an object, or all of a folder; nothing happens where there is none.

    :raises OSError: the store does not do it.
    """
    found = stat(path)
    if found is None:
        return
    store, name = filesystem(path)
    try:
        retrying(lambda: (store.delete_dir if found.is_folder else store.delete_file)(name))
    except FileNotFoundError:  # somebody else did meanwhile
        return


def open_file(path: str) -> Any:
    """A file to read from its start.

    :raises OSError: it cannot be opened.
    """
    return Window(open_blob(path)) if is_remote(path) else Path(_on_disk(path)).open("rb")


@contextmanager
def answering(path: str) -> Iterator[None]:
    """A store's trouble as one line; a disk's stays what it is, and a file that is not there too.

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


class ObjectFile(Window):
    """An object as a file, for readers that take trouble on the way for damage.

    :raises StoreError: on reading, where the store does not answer.
    """

    def __init__(self, path: str) -> None:
        super().__init__(open_blob(path))
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file."""
        with answering(self._path):
            return super().read(size)


def steady(path: str, read: Callable[[], T]) -> T:
    """What ``read`` gives of a file, and gave while it was not replaced.

    An open file on a disk keeps its old content. Of an object the length was asked for before, and what
    replaced it would be cut off or filled up.

    :raises StoreError: the store does not answer, or the object is replaced again and again.
    """
    if not is_remote(path):
        return read()
    with answering(path):
        before = stat(path)
    for _ in range(_LOOKS):
        found = read()
        with answering(path):
            after = stat(path)
        if before == after:
            return found
        before = after
    raise StoreError(f"{path} is being replaced all the time: try again later")


def one_line(error: BaseException) -> str:
    """What went wrong, without the line breaks and the length of an object store's messages."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    told = _AWS.search(text)
    text = f"{told['code']}, {told['what']}" if told else text
    return text if len(text) <= 300 else text[:299] + "…"


def escape(name: str) -> str:
    """A name whose bytes are not UTF-8, as a text that can be written: ``caf\\xe9.mp4``."""
    try:
        name.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(name).decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:  # half of a surrogate pair, which no name on disk has
            return name.encode("utf-8", "backslashreplace").decode()
    return name


def _on_disk(path: str) -> str:
    """The path of an escaped name, where that is what lies there."""
    if "\\x" not in path or os.path.lexists(path):
        return path
    return os.fsdecode(_ESCAPED.sub(lambda m: bytes([int(m[1], 16)]), os.fsencode(path)))


def _walk_disk(root: str) -> Iterator[Found]:
    seen: set[str] = set()
    root = _on_disk(root)
    for folder, subfolders, names in os.walk(root, onerror=_cannot_list, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or to a folder listed already
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
    """Of paths that lie in one store."""
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
    """pyarrow's file system of an object store, and the name of an object in it."""
    match = _URI.match(uri)
    assert match is not None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    store, root = _connect(match["scheme"], match["place"], endpoint)
    root = root.rstrip("/")
    return store, f"{root}/{match['key']}" if match["key"] else root or "/"


@lru_cache(maxsize=64)
def _connect(scheme: str, place: str, endpoint: str | None) -> tuple[Any, str]:
    """One connection a bucket and process; nothing is connected before the first use."""
    del endpoint  # read by pyarrow itself; part of the key
    from pyarrow import fs

    store, root = fs.FileSystem.from_uri(f"{scheme}://{place}/{_OPTIONS.get(scheme, '')}")
    return store, root
