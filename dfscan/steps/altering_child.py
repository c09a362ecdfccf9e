"""The child process that alters one video: ``python -m dfscan.steps.altering_child PARENT``.

It reads one request as JSON on stdin, writes the altered file, answers in one line of JSON on stdout
and ends; it ends with its parent, too. It decodes what may be hostile, so it knows one video only.
"""

import contextlib
import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

from dfscan import faults, storage
from dfscan.errors import DfscanError, VideoError
from dfscan.steps import sandbox
from dfscan.steps.lifeline import end_with
from dfscan.video import DecoderTrouble, open_video
from dfscan.video.altering import CONDITIONS, Condition, altered_picture, write_altered
from dfscan.video.pictures import is_picture_file, open_picture
from dfscan.video.writing import EncoderError

LARGEST: Final = 16 << 30
"""Bytes of an altered file at most."""

_OF_THE_MACHINE: Final = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT, errno.EIO)
)
"""What cannot be written for one of these cannot be written for any video."""


def main() -> None:
    """Answer one request."""
    end_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    request = json.load(sys.stdin)
    with contextlib.suppress(ValueError, OSError):  # a system without such a limit
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory"],) * 2)
    answers.write(json.dumps(_answer(request)))
    answers.close()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """What was made, ``failed`` (a status and a reason) or ``fatal``."""
    try:
        data = storage.read_bytes(request["uri"], request["max_bytes"])
        faults.reach("child.alter", request["uri"])
        sandbox.enter(LARGEST, keep_files=True)
        return _alter(data, request)
    except VideoError as error:
        return {"failed": [error.status, error.reason]}
    except MemoryError:
        memory = f"{request['memory'] / 2**30:.1f} GiB"
        return {"failed": ["crashed", f"used more than {memory} of memory"]}
    except EncoderError as error:
        return {"fatal": str(error)}
    except DfscanError as error:
        if getattr(error.__context__, "errno", None) in _OF_THE_MACHINE:
            return {"fatal": str(error)}
        return {"failed": ["unsupported", f"cannot be re-encoded: {error}"]}
    except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
        lines = str(error).strip().splitlines()
        return {"failed": ["crashed", f"{type(error).__name__}: {lines[0][:160] if lines else ''}"]}


def _alter(data: bytes, request: dict[str, Any]) -> dict[str, Any]:
    """Write the altered file.

    :raises VideoError: it cannot be decoded, or the condition does not apply to it.
    """
    condition = CONDITIONS[request["condition"]]
    picture = is_picture_file(request["uri"], data)
    path, lost = Path(request["stem"] + condition.suffix(picture)), 0
    if picture:
        (frame,) = next(open_picture(data).read([0]))
        storage.commit_bytes(path, altered_picture(frame.rgb, condition))
    else:
        lost = _alter_video(data, condition, path, request["decoders"])
    return {
        "picture": picture,
        "lost": lost,
        "content_sha256": storage.sha256(data),
        "bytes": len(data),
    }


def _alter_video(data: bytes, condition: Condition, path: Path, decoders: list[str]) -> int:
    """Try each decoder on the whole clip, as a look at it does; returns the number of lost frames."""
    trouble: list[str] = []
    for decoder in decoders:
        try:
            return write_altered(open_video(data, decoder), condition, path).lost
        except DecoderTrouble as error:
            trouble.append(str(error))
    raise VideoError("decode_error", "; ".join(trouble))


if __name__ == "__main__":
    main()
