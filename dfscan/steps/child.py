"""The child process in which videos are opened: ``python -m dfscan.steps.child PARENT [FRAMES]``.

It reads requests on stdin and answers on stdout until stdin ends, and it ends with its parent.
``FRAMES`` is the descriptor of the memory in which it hands frames over, where the parent finds the
faces.
"""

import functools
import json
import os
import resource
import sys
from typing import IO, Any

from dfscan import faults
from dfscan.errors import DfscanError, VideoError
from dfscan.recipe import FaceRecipe
from dfscan.records import VideoRef
from dfscan.steps import wire
from dfscan.steps.feeding import FedDetector, SharedFrames
from dfscan.steps.lifeline import end_with
from dfscan.steps.look import Look


def main() -> None:
    """Answer requests one by one."""
    end_with(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
        answers.write(_answer(*request, fed))
        answers.flush()


def _read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    prefix = stream.read(wire.PREFIX.size)
    if len(prefix) < wire.PREFIX.size:
        return None
    text, table = wire.PREFIX.unpack(prefix)
    return json.loads(stream.read(text)), stream.read(table)


def _answer(header: dict[str, Any], table: bytes, fed: FedDetector | None) -> bytes:
    try:
        look = _look(header["look"], fed)
        if header["kind"] == "warm":
            look.load()
            return wire.message({})
        ref = VideoRef(**header["ref"])
        faults.reach("child.look", ref.video_id)
        if header["kind"] == "survey":
            return wire.message({"indices": look.survey(ref)})
        reference = wire.read_reference(header["reference"], table)
        return wire.seen_message(look.see(ref, header["also"], reference))
    except VideoError as error:
        return wire.message({"failed": [error.status, error.reason]})
    except DfscanError as error:
        return wire.message({"fatal": str(error)})
    except Exception as error:  # noqa: BLE001  (whatever it is, it costs one video its row)
        lines = str(error).strip().splitlines()
        how = f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
        return wire.message({"failed": ["crashed", how]})


@functools.lru_cache(maxsize=4)
def _look(text: str, fed: FedDetector | None) -> Look:
    values = json.loads(text)
    recipe = FaceRecipe.model_validate(values["recipe"])
    detector = fed if values["fed"] and recipe.detector.name != "none" else None
    return Look(recipe, values["device"], values["max_bytes"], tuple(values["decoders"]), detector)


if __name__ == "__main__":
    main()
