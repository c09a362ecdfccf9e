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
from dfscan.pipeline.extraction.extractor import Content, Look
from dfscan.pipeline.sandbox import protocol as wire
from dfscan.pipeline.sandbox import seccomp as sandbox
from dfscan.pipeline.sandbox.detector_server import LARGEST, FedDetector, SharedFrames
from dfscan.pipeline.sandbox.parent_watch import end_with
from dfscan.schemas.recipe import FaceRecipe
from dfscan.schemas.records import VideoRef
from dfscan.storage import fault_injection as faults
from dfscan.video.reading import load_decoders

_SAID: Final = 1 << 20
"""Bytes that it may write to stderr."""


def main() -> None:
    """Answer requests one by one."""
    end_with(int(sys.argv[1]))
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def ask(said: dict[str, Any]) -> Any:
        answers.write(wire.message({"detect": said}))
        answers.flush()
        answer = _read(requests)
        if answer is None:
            sys.exit(1)  # the parent has ended
        return answer[0]["found"]

    frames = [SharedFrames(int(text)) for text in sys.argv[2:]]
    fed = FedDetector(frames[0], ask) if frames else None
    while (request := _read(requests)) is not None:
        answer = _answer(*request, requests, fed)
        if answer is not None:
            answers.write(answer)
            answers.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    prefix = stream.read(wire.PREFIX.size)
    if len(prefix) < wire.PREFIX.size:
        return None
    text, table = wire.PREFIX.unpack(prefix)
    return json.loads(stream.read(text)), stream.read(table)


def _read_content(stream: IO[bytes]) -> Content | None:
    """A video's bytes; None where they cannot be read to the end."""
    pieces: list[bytes] = []
    while True:
        length = wire.PIECE.unpack(stream.read(wire.PIECE.size))[0]
        if length == wire.GIVEN_UP:
            return None
        if not length:
            return Content(b"".join(pieces), stream.read(wire.DIGEST).hex())
        pieces.append(stream.read(length))


def _answer(
    header: dict[str, Any], table: bytes, requests: IO[bytes], fed: FedDetector | None
) -> bytes | None:
    try:
        look = _look(header["look"], fed)
        if header["kind"] == "warm":
            return wire.message({"lacking": _warm(look, fed)})
        started = time.monotonic()
        sandbox.allow_more(header["seconds"], header["memory"])
        content = _read_content(requests)
        if content is None:
            return None
        for fault in header["faults"]:
            faults.strike(fault)
        ref = VideoRef(**header["ref"])
        if header["kind"] == "survey":
            return wire.message({"indices": look.survey_content(ref, content)})
        reference = wire.read_reference(header["reference"], table)
        return wire.seen_message(look.see_content(ref, content, started, header["also"], reference))
    except MemoryError:
        return wire.message({"failed": wire.too_much(header["memory"])})
    except VideoError as error:
        return wire.message({"failed": [error.status, error.reason]})
    except DfscanError as error:
        return wire.message({"fatal": str(error)})
    except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
        lines = str(error).strip().splitlines()
        how = f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        return wire.message({"failed": ["crashed", how]})


def _warm(look: Look, fed: FedDetector | None) -> list[str]:
    """Load what decoding and detecting need, and give up the rest; returns what could not be."""
    look.load()
    load_decoders(look.decoders)
    return _enter(fed, look.device)


@functools.lru_cache(maxsize=1)
def _enter(fed: FedDetector | None, device: str) -> list[str]:
    return sandbox.enter(LARGEST if fed else _SAID, keep_files=not fed and device != "cpu")


@functools.lru_cache(maxsize=4)
def _look(text: str, fed: FedDetector | None) -> Look:
    values = json.loads(text)
    recipe = FaceRecipe.model_validate(values["recipe"])
    detector = fed if values["fed"] and recipe.detector.name != "none" else None
    return Look(recipe, values["device"], values["max_bytes"], tuple(values["decoders"]), detector)


if __name__ == "__main__":
    main()
