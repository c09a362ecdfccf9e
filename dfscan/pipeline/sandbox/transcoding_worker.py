"""The child process that makes one file of another: ``python -m dfscan.pipeline.sandbox.transcoding_worker PARENT``.

It reads one request as a line of JSON on stdin, behind it the bytes of the original; it opens the file
to write, gives up files, network and rights (:mod:`dfscan.pipeline.sandbox.seccomp`), and only then decodes. It
answers in lines of JSON on stdout and ends; it ends with its parent, too. What it decodes may be
hostile, so it knows one file only.
"""

import errno
import json
import os
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dfscan.errors import DfscanError, VideoError
from dfscan.pipeline.sandbox import seccomp
from dfscan.pipeline.sandbox.parent_watch import exit_with_parent
from dfscan.rendering.drawing import Drawing, draw_picture, draw_video
from dfscan.storage import Opened
from dfscan.storage import fault_injection as faults
from dfscan.video import DecoderError, open_video
from dfscan.video.pictures import is_picture_file, open_picture
from dfscan.video.reading import load_decoders
from dfscan.video.transforms import CONDITIONS, Condition, transformed_picture, write_transformed
from dfscan.video.writing import EncoderError

LARGEST: Final = 16 << 30
"""Bytes of a file at most."""

_OF_THE_MACHINE: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO)
)
"""What cannot be written for one of these cannot be written for any video."""

Tell = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answer one request."""
    exit_with_parent(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def tell(said: dict[str, Any]) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    request = json.loads(sys.stdin.buffer.readline())
    with suppress(ValueError, OSError):  # a system without such a limit
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory"],) * 2)
    tell(_answer(request, tell))


def _answer(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """What was made, ``failed`` (a status and a reason) or ``fatal``."""
    try:
        return {"made": _make(request, sys.stdin.buffer.read(), tell)}
    except VideoError as error:
        return {"failed": [error.status, error.reason]}
    except MemoryError:
        memory = f"{request['memory'] / 2**30:.1f} GiB"
        return {"failed": ["crashed", f"used more than {memory} of memory"]}
    except EncoderError as error:
        return {"fatal": str(error)}
    except DfscanError as error:
        if "drawing" in request or getattr(error.__context__, "errno", None) in _OF_THE_MACHINE:
            return {"fatal": str(error)}
        return {"failed": ["unsupported", f"cannot be re-encoded: {error}"]}
    except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
        lines = str(error).strip().splitlines()
        return {"failed": ["crashed", f"{type(error).__name__}: {lines[0][:160] if lines else ''}"]}


def _make(request: dict[str, Any], data: bytes, tell: Tell) -> dict[str, Any]:
    """Write the file.

    :param request: ``uri``, where it comes from; ``paths``, what to write of a video and of a picture;
        ``condition`` and ``decoders``, or ``drawing``.
    :raises VideoError: it cannot be decoded, or the condition does not apply to it.
    """
    faults.fault_point(request["point"], request["uri"])
    picture = is_picture_file(request["uri"], data)
    out = Opened(Path(request["paths"][picture]))
    load_decoders(request.get("decoders", ()))
    seccomp.enter(LARGEST)
    if "drawing" in request:
        return _draw(data, request["drawing"], picture, out, tell)
    condition = CONDITIONS[request["condition"]]
    if picture:
        (frame,) = next(open_picture(data).read([0]))
        out.begin().write(transformed_picture(frame.rgb, condition))
        out.flush()
        return {"picture": True, "lost": 0}
    return {"picture": False, "lost": _alter_video(data, condition, out, request["decoders"])}


def _draw(data: bytes, said: str, picture: bool, out: Opened, tell: Tell) -> dict[str, Any]:
    drawing = Drawing.model_validate_json(said)
    if picture:
        drawn = draw_picture(data, drawing, out)
    else:
        drawn = draw_video(data, drawing, out, lambda *at: tell({"at": at}))
    return drawn.model_dump()


def _alter_video(data: bytes, condition: Condition, out: Opened, decoders: list[str]) -> int:
    """Try each decoder on the whole clip, as a look at it does; returns the number of lost frames."""
    trouble: list[str] = []
    for decoder in decoders:
        try:
            return write_transformed(open_video(data, decoder), condition, out).lost
        except DecoderError as error:
            trouble.append(str(error))
    raise VideoError("decode_error", "; ".join(trouble))


if __name__ == "__main__":
    main()
