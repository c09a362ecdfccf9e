"""Several videos at once in one worker, each in a thread that waits for its decoding process."""

import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dfscan.steps.look import Looker

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_lanes(
    look: Looker, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """``map(work, items)`` in order, as many at once as ``look`` has lanes.

    Where it ends early, by an error or because nobody wants the rest, the rest is abandoned.
    """
    if look.lanes == 1:
        yield from map(work, items)
        return
    futures = [_threads(look.lanes).submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        look.abandon()
        raise


@functools.lru_cache(maxsize=1)
def _threads(lanes: int) -> ThreadPoolExecutor:
    """Threads that last as long as the process: a child dies with the thread that started it."""
    return ThreadPoolExecutor(lanes, thread_name_prefix="lane")
