"""The child process in which videos are opened: ``python -m dfscan.pipeline.sandbox.extraction_worker PARENT [FRAMES]``.

It reads requests on stdin, each with the video's bytes, and answers on stdout until stdin ends, and
it ends with its parent. Once its networks are loaded it gives up files, network and rights
(:mod:`dfscan.pipeline.sandbox.seccomp`). ``FRAMES`` is the descriptor of the memory in which it hands frames
over, where the parent finds the faces.
"""

import functools
import json
import os
import sys
import time
from typing import IO, Any, Final

from dfscan.errors import DfscanError, VideoError
from dfscan.pipeline.extraction.extractor import Content, InProcessExtractor
from dfscan.pipeline.sandbox import protocol, seccomp
from dfscan.pipeline.sandbox.detector_server import LARGEST, RemoteDetector, SharedFrameBuffer
from dfscan.pipeline.sandbox.parent_watch import exit_with_parent
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import VideoRef
from dfscan.storage import fault_injection as faults
from dfscan.video.reading import load_decoders

_SAID: Final = 1 << 20
"""Bytes that it may write to stderr."""


def main() -> None:
    """Answer requests one by one."""
    exit_with_parent(int(sys.argv[1]))
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def ask(said: dict[str, Any]) -> Any:
        answers.write(protocol.message({"detect": said}))
        answers.flush()
        answer = _read(requests)
        if answer is None:
            sys.exit(1)  # the parent has ended
        return answer[0]["found"]

    frames = [SharedFrameBuffer(int(text)) for text in sys.argv[2:]]
    fed = RemoteDetector(frames[0], ask) if frames else None
    while (request := _read(requests)) is not None:
        answer = _answer(*request, requests, fed)
        if answer is not None:
            answers.write(answer)
            answers.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    prefix = stream.read(protocol.PREFIX.size)
    if len(prefix) < protocol.PREFIX.size:
        return None
    text, table = protocol.PREFIX.unpack(prefix)
    return json.loads(stream.read(text)), stream.read(table)


def _read_content(stream: IO[bytes]) -> Content | None:
    """A video's bytes; None where they cannot be read to the end."""
    pieces: list[bytes] = []
    while True:
        length = protocol.PIECE.unpack(stream.read(protocol.PIECE.size))[0]
        if length == protocol.GIVEN_UP:
            return None
        if not length:
            return Content(b"".join(pieces), stream.read(protocol.DIGEST).hex())
        pieces.append(stream.read(length))


def _answer(
    header: dict[str, Any], table: bytes, requests: IO[bytes], fed: RemoteDetector | None
) -> bytes | None:
    try:
        extractor = _extractor(header["extractor"], fed)
        if header["kind"] == "warm":
            return protocol.message({"lacking": _warm(extractor, fed)})
        started = time.monotonic()
        seccomp.allow_more(header["seconds"], header["memory"])
        content = _read_content(requests)
        if content is None:
            return None
        for fault in header["faults"]:
            faults.trigger(fault)
        ref = VideoRef(**header["ref"])
        if header["kind"] == "sample_frames":
            return protocol.message({"indices": extractor.sample_content(ref, content)})
        reference = protocol.read_reference(header["reference"], table)
        return protocol.result_message(
            extractor.extract_content(ref, content, started, header["extra_frames"], reference)
        )
    except MemoryError:
        return protocol.message({"failed": protocol.too_much(header["memory"])})
    except VideoError as error:
        return protocol.message({"failed": [error.status, error.reason]})
    except DfscanError as error:
        return protocol.message({"fatal": str(error)})
    except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
        lines = str(error).strip().splitlines()
        how = f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        return protocol.message({"failed": ["crashed", how]})


def _warm(extractor: InProcessExtractor, fed: RemoteDetector | None) -> list[str]:
    """Load what decoding and detecting need, and give up the rest; returns what could not be."""
    extractor.load()
    load_decoders(extractor.decoders)
    return _enter(fed, extractor.device)


@functools.lru_cache(maxsize=1)
def _enter(fed: RemoteDetector | None, device: str) -> list[str]:
    return seccomp.enter(LARGEST if fed else _SAID, keep_files=not fed and device != "cpu")


@functools.lru_cache(maxsize=4)
def _extractor(text: str, fed: RemoteDetector | None) -> InProcessExtractor:
    values = json.loads(text)
    recipe = FaceRecipe.model_validate(values["recipe"])
    detector = fed if values["fed"] and recipe.detector.name != "none" else None
    return InProcessExtractor(
        recipe, values["device"], values["max_bytes"], tuple(values["decoders"]), detector
    )


if __name__ == "__main__":
    main()
