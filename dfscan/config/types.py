"""The values of configuration keys: how text, YAML and Python become paths, times and lists."""

import datetime
import os
import re
import time
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from dfscan.schemas.status import STATUSES


def _listed(value: Any) -> Any:
    """One path where a list is wanted."""
    return [value] if isinstance(value, str | os.PathLike) else value


def _seconds(value: Any) -> Any:
    """``"1s"``, ``"1.5"`` or a number → seconds."""
    return value.removesuffix("s").strip() if isinstance(value, str) else value


def comma_separated(value: Any) -> Any:
    """``"timeout,crashed"`` → its parts."""
    return tuple(p.strip() for p in value.split(",")) if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    """``"0.1,1"``, or one number, where a list is wanted."""
    if isinstance(value, str):
        return tuple(value.split(","))
    return (value,) if isinstance(value, int | float) else value


def _rule(value: str) -> str:
    name, _, share = value.partition("=")
    try:
        if value in ("f1", "youden") or (name == "fpr" and 0 <= float(share) < 1):
            return value
    except ValueError:
        pass  # the share is no number
    raise ValueError("must be f1, youden, or a false-positive rate from 0 to below 1: fpr=0.01")


def _status(value: str) -> str:
    if value not in STATUSES:
        raise ValueError(f"must be a status: {', '.join(STATUSES)}")
    return value


_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


_DURATION: Final = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhd])\s*$")


def _duration(value: Any) -> Any:
    """``"6h"`` → seconds; a number is seconds already."""
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError("must be a number with its unit: 90s, 30m, 6h or 2d")
    return float(match[1]) * _SECONDS[match[2]]


def _moment(value: Any) -> Any:
    """``"2026-11-01"``, ``"2026-11-01T06:00+01:00"`` or ``"24h"`` (ago) → seconds since the epoch."""
    if isinstance(value, datetime.date):  # what YAML makes of a date
        value = value.isoformat()
    if not isinstance(value, str):
        return value
    if _DURATION.match(value):
        return time.time() - float(_duration(value))
    try:
        moment = datetime.datetime.fromisoformat(value.strip()).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("must be a date (2026-11-01), a time or a time ago (24h, 7d)") from None
    if moment > time.time():
        raise ValueError("lies in the future")
    return moment


def _lower(value: Any) -> Any:
    return tuple(v.lower() if isinstance(v, str) else v for v in comma_separated(value) or ())


Layout = Literal["auto", "dfdc", "ffpp", "celebdf", "folders", "flat"]


PathText = Annotated[
    str, BeforeValidator(lambda v: os.fspath(v) if isinstance(v, os.PathLike) else v)
]


Paths = Annotated[tuple[PathText, ...], BeforeValidator(_listed)]


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


Names = Annotated[tuple[str, ...], BeforeValidator(comma_separated)]


Numbers = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_numbers)]


Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]


Moment = Annotated[float, BeforeValidator(_moment), Field(ge=0)]


FailOn = Annotated[tuple[Literal["fake", "uncertain", "failed"], ...], BeforeValidator(_lower)]


Statuses = Annotated[
    tuple[Annotated[str, AfterValidator(_status)], ...], BeforeValidator(comma_separated)
]


Precision = Literal["float32", "bfloat16", "float16"]


BatchSize = Literal["auto"] | Annotated[int, Field(ge=1)]
