"""Which keys of a configuration have an option of their own on the command line."""

from dataclasses import dataclass
from typing import Final

INPUT: Final = "Input"
OUTPUT: Final = "Output"
SAMPLING: Final = "Sampling"
RUNNING: Final = "Running"


@dataclass(frozen=True, slots=True)
class Flag:
    """One option, or positional argument, of a command.

    Type, default and help are those of the key's field.

    :param key: the configuration key it sets, dotted where it is nested: ``"crop.context"``.
    :param panel: the section of ``--help`` that lists it.
    :param name: default: the last part of the key, ``--with-dashes``.
    :param metavar: what stands for the value in ``--help``; default: by type.
    :param off: for booleans, the name of the option that sets False.
    :param many: it may be given several times, and its values are a list.
    :param argument: it is positional.
    :param required: it must be given on the command line, whatever ``dfscan.yaml`` says.
    """

    key: str
    panel: str = INPUT
    name: str | None = None
    metavar: str | None = None
    off: str | None = None
    many: bool = False
    argument: bool = False
    required: bool = False


INLINE: Final = Flag("inline", RUNNING, off="--ray")
WORKERS: Final = Flag("workers", RUNNING)
GPUS: Final = Flag("gpus", RUNNING)
RAY_ADDRESS: Final = Flag("ray_address", RUNNING, metavar="ADDRESS")
TIMEOUT: Final = Flag("timeout", RUNNING, metavar="SECONDS")
MAX_FAILED: Final = Flag("max_failed", RUNNING)
DRY_RUN: Final = Flag("dry_run", RUNNING)
CLUSTER: Final = (INLINE, WORKERS, GPUS, RAY_ADDRESS)

SOURCE: Final = Flag("source", metavar="SOURCE...", many=True, argument=True)
LAYOUT: Final = Flag("layout")
MODELS: Final = Flag("model", metavar="MODEL", many=True)
LABELS: Final = Flag("labels", metavar="PATH")
OUT: Final = Flag("out", OUTPUT, metavar="PATH")
OVERWRITE: Final = Flag("overwrite", OUTPUT)
FRAMES: Final = tuple(
    Flag(key, SAMPLING, metavar=metavar)
    for key, metavar in (
        ("frames", None), ("every", "SECONDS"), ("stride", "N"), ("phase", "N"), ("sampling", None),
    )
)  # fmt: skip
