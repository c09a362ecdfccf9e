"""Several videos at once in one worker, each in a thread that waits for its decoding process."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from dfscan.pipeline.extraction.extractor import FaceExtractor

Item = TypeVar("Item")
Result = TypeVar("Result")

_AGAIN_S: Final = 0.2
"""What is abandoned may have one more video to look at: it is told again after so many seconds."""


def map_concurrent(
    extractor: FaceExtractor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """``map(work, items)`` in order, as many at once as ``look`` has lanes.

    Where it ends early, by an error or because it is closed, the rest is abandoned.
    """
    if extractor.max_concurrent == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    left = iter(items)
    try:
        while True:
            for item in itertools.islice(left, 2 * extractor.max_concurrent - len(waiting)):
                waiting.append(_threads(extractor.max_concurrent).submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        while wait(waiting, timeout=_AGAIN_S).not_done:
            extractor.abandon()


@functools.lru_cache(maxsize=1)
def _threads(max_concurrent: int) -> ThreadPoolExecutor:
    """Threads that last as long as the process: a child dies with the thread that started it."""
    return ThreadPoolExecutor(max_concurrent, thread_name_prefix="lane")
