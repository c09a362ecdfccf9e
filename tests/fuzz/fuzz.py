"""Throw damaged and hostile files at an extraction, and look at what it does besides.

    python tests/fuzz/fuzz.py --count 2000 --seed 0

Damaged: clips in many containers and codecs, pictures and archives with flipped bits, wrong lengths,
pieces missing, doubled or from another file. Hostile: files that name a canary file and an address on
this machine in every way that FFmpeg knows, under the names of videos. Between them lie clips that are
sound. Afterwards every file must have its row, every sound clip the row it has alone, nothing may have
changed outside the output folder, the canary must not have been opened and nobody have called.
"""

import argparse
import contextlib
import ctypes
import hashlib
import io
import os
import random
import select
import shutil
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from PIL import Image

from dfscan import storage
from dfscan.commands import extract as extract_job
from dfscan.config.extract import ExtractConfig
from dfscan.datasets.face_dataset import FaceSet
from dfscan.pipeline.progress import Progress
from dfscan.pipeline.sandbox import process
from dfscan.schemas.recipe import Detector, Stride

SOUND_EVERY = 20
"""One file in so many is a sound clip."""

LARGEST_SEED = 400_000


class BrokenError(AssertionError):
    """Something happened that must not."""


# ---------------------------------------------------------------- seeds

CLIPS = {
    "h264.mp4": ("mp4", "libx264", {"x264-params": "keyint=5:bframes=2"}, {}),
    "fragments.mp4": ("mp4", "libx264", {}, {"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mp4": ("mp4", "libx265", {"x265-params": "log-level=none"}, {}),
    "mpeg4.mov": ("mov", "mpeg4", {}, {}),
    "mjpeg.mov": ("mov", "mjpeg", {}, {}),
    "h264.mkv": ("matroska", "libx264", {}, {}),
    "vp8.webm": ("webm", "libvpx", {}, {}),
    "vp9.webm": ("webm", "libvpx-vp9", {}, {}),
    "xvid.avi": ("avi", "mpeg4", {}, {}),
    "h264.ts": ("mpegts", "libx264", {}, {}),
    "mpeg2.ts": ("mpegts", "mpeg2video", {}, {}),
    "mpeg1.mpg": ("mpeg", "mpeg1video", {}, {}),
    "flv1.flv": ("flv", "flv", {}, {}),
    "wmv.wmv": ("asf", "wmv2", {}, {}),
    "theora.ogv": ("ogg", "libtheora", {}, {}),
    "moving.gif": ("gif", "gif", {}, {}),
}
"""Name → container, codec, the codec's options, the container's."""


def clip(
    container: str, codec: str, codec_options: dict[str, str], options: dict[str, str]
) -> bytes:
    """A second of moving stripes."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container, options=options) as opened:
        stream = opened.add_stream(codec, rate=25, options=codec_options)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.thread_count = 1
        for number in range(25):
            columns = (np.arange(96) * 4 + number * 11) % 256
            pixels = np.broadcast_to(columns[None, :, None], (64, 96, 3)).astype(np.uint8)
            opened.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        opened.mux(stream.encode(None))
    return sink.getvalue()


def picture(kind: str) -> bytes:
    """A gradient."""
    sink = io.BytesIO()
    ramp = np.arange(96, dtype=np.uint8) * 2
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (64, 96, 3))).save(sink, kind)
    return sink.getvalue()


def archives(members: dict[str, bytes]) -> dict[str, bytes]:
    """Some of the seeds in a zip, stored and compressed, and in a tar."""
    made = {}
    for name, how in (("stored.zip", zipfile.ZIP_STORED), ("deflated.zip", zipfile.ZIP_DEFLATED)):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", how) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        made[name] = sink.getvalue()
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made | {"some.tar": sink.getvalue()}


def seeds() -> dict[str, bytes]:
    """What is damaged: by name, clips made here and some real ones where there are samples."""
    made = {}
    for name, how in CLIPS.items():
        with contextlib.suppress(av.codec.codec.UnknownCodecError):  # not in every build of FFmpeg
            made[name] = clip(*how)
    made |= {f"still.{k}": picture(k) for k in ("jpeg", "png", "webp", "bmp", "tiff")}
    folder = Path(os.environ.get("DFSCAN_SAMPLES", Path(__file__).parents[3] / "shared/samples"))
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        video = path.suffix.lower() in {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg"}
        if video and path.is_file() and 0 < path.stat().st_size <= LARGEST_SEED:
            made[f"sample_{path.name}"] = path.read_bytes()
    return made | archives({n: d for n, d in made.items() if n in ("h264.mp4", "vp8.webm")})


# ---------------------------------------------------------------- damage


def flip(data: bytearray, chance: random.Random) -> bytearray:
    """Single bits, few or many."""
    for _ in range(chance.choice((1, 3, 10, 50, 300))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def flip_header(data: bytearray, chance: random.Random) -> bytearray:
    """Bits among the first or the last thousand bytes, where containers say what they hold."""
    size = min(len(data), 1000)
    start = chance.choice((0, len(data) - size))
    for _ in range(chance.choice((1, 4, 16))):
        data[start + chance.randrange(size)] ^= 1 << chance.randrange(8)
    return data


def lie(data: bytearray, chance: random.Random) -> bytearray:
    """Lengths and counts that are not so."""
    for _ in range(chance.choice((1, 2, 5))):
        at = chance.randrange(max(1, len(data) - 8))
        number = chance.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        data[at : at + 4] = struct.pack(chance.choice(("<I", ">I")), number)
    return data


def cut(data: bytearray, chance: random.Random) -> bytearray:
    """The end is missing."""
    return data[: chance.randrange(len(data))]


def hole(data: bytearray, chance: random.Random) -> bytearray:
    """A piece is missing, or full of zeros."""
    start = chance.randrange(len(data))
    size = chance.randrange(1, max(2, len(data) // 4))
    data[start : start + size] = b"" if chance.random() < 0.5 else bytes(size)
    return data


def double(data: bytearray, chance: random.Random) -> bytearray:
    """A piece is there again and again."""
    start = chance.randrange(len(data))
    piece = data[start : start + chance.randrange(1, 2000)]
    data[start:start] = piece * chance.choice((1, 2, 40))
    return data


def noise(data: bytearray, chance: random.Random) -> bytearray:
    """A piece is noise."""
    start = chance.randrange(len(data))
    size = chance.randrange(1, 2000)
    data[start : start + size] = chance.randbytes(size)
    return data


DAMAGE: dict[str, Callable[[bytearray, random.Random], bytearray]] = {
    f.__name__: f for f in (flip, flip_header, lie, cut, hole, double, noise)
}


def damaged(made: dict[str, bytes], chance: random.Random) -> tuple[str, str, bytes]:
    """(what was done, suffix, content) of one file."""
    name = chance.choice(sorted(made))
    how = chance.choice((*DAMAGE, "splice"))
    if how == "splice":
        other = made[chance.choice(sorted(made))]
        data = (
            made[name][: chance.randrange(len(made[name]))] + other[chance.randrange(len(other)) :]
        )
    else:
        data = bytes(DAMAGE[how](bytearray(made[name]), chance))
    return how, Path(name).suffix, data


# ---------------------------------------------------------------- references


def references(canary: Path, port: int) -> dict[str, bytes]:
    """Files that name others: the canary, and an address of this machine."""
    url = f"http://127.0.0.1:{port}/canary.ts"
    made: dict[str, bytes] = {}
    for kind, target in (("file", f"file://{canary}"), ("path", str(canary)), ("http", url)):
        texts = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
            "key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:9,\n{target}\n',
            "concat": f"ffconcat version 1.0\nfile '{target}'\nduration 1\n",
            "rtsptext": f"RTSPtext\nrtsp://127.0.0.1:{port}/x\n",
            "playlist": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
            "reference": f"[Reference]\nRef1={target}\n",
            "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            f'mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
            f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL>'
            f"</Representation></AdaptationSet></Period></MPD>",
            "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
            "smil": f'<smil><body><video src="{target}"/></body></smil>',
            "xspf": f'<?xml version="1.0"?><playlist xmlns="http://xspf.org/ns/0/"><trackList>'
            f"<track><location>{target}</location></track></trackList></playlist>",
            "entity": f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{target}">]><x>&e;</x>',
            "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
            "webvtt": f"WEBVTT\n\n00:00.000 --> 00:09.000\n{target}\n",
            "imf": f'<?xml version="1.0"?><AssetMap><Path>{target}</Path></AssetMap>',
            "protocol": f"concat:{target}|{target}",
            "spaces": f"\ufeff \r\n#EXTM3U\n#EXTINF:9,\n{target}\n",
        }
        made |= {f"{kind}-{name}": text.encode() for name, text in texts.items()}
        made |= {f"{kind}-{name}": data for name, data in _containers(target, canary).items()}
    return made


def _containers(target: str, canary: Path) -> dict[str, bytes]:
    """Containers that name another file as the place of their content."""
    movie = clip("mov", "mpeg4", {}, {})
    there = movie.index(b"dref") - 4
    size = struct.unpack(">I", movie[there : there + 4])[0]
    named = f"{target}\0".encode()
    kinds = {
        "dref-url": b"url " + bytes(4) + named,
        "dref-urn": b"urn " + bytes(4) + named + named,
        "dref-alis": b"alis" + bytes(4) + _alias(canary),
    }
    made = {}
    for name, entry in kinds.items():
        box = struct.pack(">I", len(entry) + 4) + entry
        whole = b"dref" + bytes(4) + struct.pack(">I", 1) + box
        made[name] = _replaced(movie, there, size, struct.pack(">I", len(whole) + 4) + whole)
    rmra = _box(
        b"moov",
        _box(
            b"rmra",
            _box(
                b"rmda", _box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(named)) + named)
            ),
        ),
    )
    made["rmra"] = _box(b"ftyp", b"qt  " + bytes(4)) + rmra
    matroska = clip("matroska", "mpeg4", {}, {})
    made["attachment"] = matroska + _element(0x1941A469, _element(0x61A7, _element(0x466E, str(canary).encode()) + _element(0x4660, b"application/x-mpegurl") + _element(0x465C, f"#EXTM3U\n{target}\n".encode()) + _element(0x46AE, b"\1")))  # fmt: skip
    linked = _element(0x73A4, bytes(16)) + _element(0x3C83AB, str(canary).encode()) + _element(0x3E83BB, str(canary).encode())  # fmt: skip
    made["linked-segment"] = matroska[:40] + _element(0x18538067, _element(0x1549A966, linked))
    return made


def _replaced(movie: bytes, start: int, size: int, new: bytes) -> bytes:
    """A box in place of another; the lengths of those around it are put right."""
    result = bytearray(movie[:start] + new + movie[start + size :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = movie.index(name) - 4
        length = struct.unpack(">I", movie[at : at + 4])[0] + len(new) - size
        result[at : at + 4] = struct.pack(">I", length)
    return bytes(result)


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content


def _element(number: int, content: bytes) -> bytes:
    """EBML, its length in four bytes."""
    name = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return name + struct.pack(">I", 0x10000000 | len(content)) + content


def _alias(path: Path) -> bytes:
    """A Macintosh alias record, as FFmpeg's mov demuxer reads it."""
    name = path.name.encode()[:63]
    head = bytes(10) + b"\0" + bytes(27) + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    head += bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
    full = str(path).replace("/", ":").encode()
    full += b"\0" * (len(full) % 2)
    return head + struct.pack(">HH", 2, len(full)) + full + struct.pack(">HH", 0xFFFF, 0)


# ---------------------------------------------------------------- watching


class Watch:
    """A file that must not be opened, and an address that nobody may call."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary.ts"
        self.canary.write_bytes(clip("mpegts", "mpeg2video", {}, {}))
        self._notify = ctypes.CDLL(None, use_errno=True)
        self._events = self._notify.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened, read = 0x20, 0x01
        where = os.fsencode(self.canary)
        if self._notify.inotify_add_watch(self._events, where, opened | read) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.calls = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            caller, _ = self._server.accept()
            self.calls += 1
            caller.close()

    def touched(self) -> tuple[int, int]:
        """How often since the last time the canary was opened or read, and the address called."""
        time.sleep(0.2)
        opened = 0
        while select.select([self._events], [], [], 0)[0]:
            opened += len(os.read(self._events, 1 << 16)) // 16
        calls, self.calls = self.calls, 0
        return opened, calls


CARELESS = {
    "safe": "0",
    "use_absolute_path": "1",
    "allowed_extensions": "ALL",
    "protocol_whitelist": "file,http,tcp,udp,rtp,rtsp,crypto,data,concat",
}
"""Options with which FFmpeg follows what a file names."""


def check_watch(watch: Watch, made: dict[str, bytes]) -> tuple[int, int]:
    """What FFmpeg by itself does with the references: it must be seen, or the watch is blind.

    :raises BrokenError: neither an opened canary nor a call was seen.
    """
    watch.canary.read_bytes()
    if not watch.touched()[0]:
        raise BrokenError("the watch does not see the canary being read")
    with tempfile.TemporaryDirectory() as folder:
        for name, data in made.items():
            path = Path(folder) / (f"{name}.m3u8" if data.startswith(b"#EXTM3U") else f"{name}.mp4")
            path.write_bytes(data)
            for options in ({}, CARELESS):
                with (
                    contextlib.suppress(
                        av.error.FFmpegError, ValueError, LookupError, StopIteration
                    ),
                    av.open(str(path), options=options, timeout=2) as opened,
                ):
                    next(opened.demux(video=0))
    seen = watch.touched()
    if not all(seen):
        raise BrokenError(f"FFmpeg alone follows no reference: {seen}")
    return seen


def snapshot(folder: Path, leaving_out: Path) -> dict[str, str]:
    """Every file below a folder → its mode, its size and the hash of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_relative_to(leaving_out) and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = f"{path.stat().st_mode:o} {content}"
        elif not path.is_relative_to(leaving_out):
            found[str(path)] = f"{path.lstat().st_mode:o}"
    return found


@dataclass
class Children:
    """How many decoding processes there were, and what they died of."""

    started: int = 0
    died: Counter[str] = field(default_factory=Counter)


@contextlib.contextmanager
def counted() -> Iterator[Children]:
    """Count the decoding processes of this one."""
    children, child = Children(), process._Child
    start, death = child.__init__, child._death

    def started(self, *arguments):  # type: ignore[no-untyped-def]
        children.started += 1
        start(self, *arguments)

    def died(self):  # type: ignore[no-untyped-def]
        error = death(self)
        children.died[str(error)[:60]] += 1
        return error

    child.__init__, child._death = started, died  # type: ignore[method-assign]
    try:
        yield children
    finally:
        child.__init__, child._death = start, death  # type: ignore[method-assign]


# ---------------------------------------------------------------- the campaign


@dataclass(frozen=True)
class Outcome:
    """What a campaign saw."""

    files: int
    rows: int
    sound: int
    references: int
    statuses: Counter[str]
    of_references: Counter[str]
    children: Children
    seconds: float


def run(folder: Path, count: int, seed: int, timeout_s: float = 120.0) -> Outcome:
    """One campaign of so many files in ``folder``.

    :raises BrokenError: something happened that must not.
    """
    chance = random.Random(seed)
    outside, source, out = (folder / name for name in ("outside", "source", "out"))
    for place in (outside, outside / "home", outside / "tmp", source):
        place.mkdir()
    watch = Watch(outside)
    hostile = references(watch.canary, watch.port)
    check_watch(watch, hostile)
    made = seeds()
    sound = [name for name in CLIPS if name in made]
    kinds: dict[str, str] = {}
    names = iter(sorted(hostile))
    for number in range(count):
        if number % SOUND_EVERY == SOUND_EVERY // 2:
            name = chance.choice(sorted(sound))
            how, suffix, data = f"sound {name}", Path(name).suffix, made[name]
        elif (reference := next(names, None)) is not None:
            how, data = f"reference {reference}", hostile[reference]
            suffix = chance.choice((".mp4", ".mov", ".mkv", ".ts", ".avi", ".webm", ".jpg"))
        else:
            how, suffix, data = damaged(made, chance)
        path = source / f"{number:05d}{suffix}"
        path.write_bytes(data)
        kinds[path.name] = how
    alone = _rows_alone(folder, {n: made[n] for n in sound})
    before = snapshot(folder, out)
    watch.touched()
    started = time.monotonic()
    with counted() as children, _at_home_in(outside):
        rows = _extract(source, out, timeout_s)
        process.end_child()
    seconds = time.monotonic() - started
    opened, calls = watch.touched()
    if opened or calls:
        raise BrokenError(f"the canary was touched {opened} times, the address called {calls}")
    after = snapshot(folder, out)
    if before != after:
        changed = sorted(before.items() ^ after.items())[:6]
        raise BrokenError(f"files outside the output folder changed: {changed}")
    by_file: dict[str, list[dict[str, object]]] = {}
    for row in rows:
        name = str(row["uri"]).removeprefix(f"{source}/").split("!/")[0]
        by_file.setdefault(name, []).append(row)
    empty = {n for n in kinds if n not in by_file}
    if any(not n.endswith((".zip", ".tar")) for n in empty):
        raise BrokenError(f"no row of {sorted(empty)[:5]}")
    for name, how in kinds.items():
        if how.startswith("sound ") and [_told(r) for r in by_file[name]] != [alone[how[6:]]]:
            raise BrokenError(f"{name}, {how}: {by_file[name]}, alone {alone[how[6:]]}")
    told = [r for n, h in kinds.items() if h.startswith("reference") for r in by_file[n]]
    return Outcome(
        files=len(kinds),
        rows=len(rows),
        sound=sum(h.startswith("sound") for h in kinds.values()),
        references=len(told),
        statuses=Counter(str(r["status"]) for r in rows),
        of_references=Counter(str(r["status"]) for r in told),
        children=children,
        seconds=seconds,
    )


@contextlib.contextmanager
def _at_home_in(folder: Path) -> Iterator[None]:
    """What is written to the home, the temporary and the current folder is seen there."""
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    held = {name: os.environ.get(name) for name in places}
    os.environ |= places
    tempfile.tempdir = None
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        for name, value in held.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None


def _told(row: dict[str, object]) -> tuple[object, ...]:
    return tuple(row[k] for k in ("status", "content_sha256", "frames_decoded", "faces", "codec"))


def _rows_alone(folder: Path, sound: dict[str, bytes]) -> dict[str, tuple[object, ...]]:
    """Each sound clip's row in a run without any other kind of file."""
    place = folder / "alone"
    place.mkdir()
    for name, data in sound.items():
        (place / name).write_bytes(data)
    rows = _extract(place, folder / "alone-out", 60)
    process.end_child()
    shutil.rmtree(folder / "alone-out")
    told = {str(r["uri"]).rpartition("/")[2]: _told(r) for r in rows}
    bad = {n: t for n, t in told.items() if t[0] != "ok"}
    if bad or told.keys() != sound.keys():
        raise BrokenError(f"sound clips are not: {bad or sound.keys() - told.keys()}")
    return told


def _extract(source: Path, out: Path, timeout_s: float) -> list[dict[str, object]]:
    config = ExtractConfig(
        source=(str(source),),
        out=str(out),
        stride=Stride(real=4, fake=4),
        detector=Detector(name="none"),
        timeout=timeout_s,
        max_memory=1 << 30,
        max_failed=1.0,
        inline=True,
        layout="flat",
    )
    extract_job.run(config, Progress())
    return [row for _, t in storage.read_tables(FaceSet(out).videos) for row in t.to_pylist()]


def main() -> None:
    """A campaign of so many files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the files there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dfscan-fuzz-") as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            outcome = run(folder, options.count, options.seed)
        except BrokenError as error:
            sys.exit(f"seed {options.seed}: {error}")
    statuses = ", ".join(f"{n:,} {s}" for s, n in outcome.statuses.most_common())
    print(f"{outcome.files:,} files, {outcome.rows:,} rows in {outcome.seconds:.0f} s: {statuses}")
    print(f"{outcome.references} files that name others: {dict(outcome.of_references)}")
    print(f"{outcome.sound} sound clips between them: each has the row that it has alone")
    died = dict(outcome.children.died) or "none died by itself"
    print(f"{outcome.children.started} decoding processes: {died}")
    print("the canary was not opened, nobody called, nothing changed outside the output folder")


if __name__ == "__main__":
    main()
