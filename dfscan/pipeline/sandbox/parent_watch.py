"""What ties a child process to its parent. Light: a child that knows one video starts often."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

_PDEATHSIG: Final = 1  # prctl's name for "tell me when my parent ends"


def exit_with_parent(parent: int) -> None:
    """Die when the parent does, be the first to go when memory runs out, leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("800")
    if os.getppid() != parent:  # it ended before prctl was called
        sys.exit(1)
