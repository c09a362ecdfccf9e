"""Ask for the code of an error instead of its wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dfscan.errors import CODES, DfscanError


@contextmanager
def raises_code(code: str) -> Iterator[pytest.ExceptionInfo[DfscanError]]:
    """Pass if the block raises a dfscan error with this code."""
    assert code in CODES, f"{code!r} is not in CODES"
    with pytest.raises(DfscanError) as raised:
        yield raised
    assert raised.value.code == code, f"code {raised.value.code!r}: {raised.value}"
