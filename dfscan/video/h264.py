"""Read H.264 packet headers without decoding: ITU-T H.264 (08/2021), 7.3.1 and 7.4.1.

An instantaneous decoding refresh (IDR) picture resets prediction: no picture after it, in decoding
order, is predicted from one before it (7.4.1.2.4). So everything between the last wanted picture
and the next IDR can be skipped, and so can all pictures between two IDRs without a wanted one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_SLICES: Final = frozenset((1, 2, 5))
_PARAMETERS: Final = frozenset((7, 8, 13, 15))
_IDR: Final = 5


@dataclass(frozen=True, slots=True)
class Packet:
    """One access unit: ``pts`` in the stream's time base; ``reference`` if others may be predicted
    from it; ``idr``; ``parameters`` if it contains parameter sets."""

    pts: int
    reference: bool
    idr: bool
    parameters: bool


def describe(pts: int, data: memoryview, extradata: bytes | None) -> Packet:
    """Read the headers of an access unit's NAL units.

    :param extradata: the stream's. With an ``avcC`` record (ISO/IEC 14496-15, 5.3.3.1), units are
        prefixed by their length; otherwise start codes separate them (Annex B).
    """
    prefix = (extradata[4] & 3) + 1 if extradata and extradata[0] == 1 else 0
    heads = list(_after_lengths(data, prefix) if prefix else _after_start_codes(data))
    kinds = {head & 31 for head in heads}
    slices = [head for head in heads if head & 31 in _SLICES]
    return Packet(
        pts=pts,
        reference=not slices or any(head >> 5 & 3 for head in slices),
        idr=bool(slices) and all(head & 31 == _IDR for head in slices),
        parameters=bool(kinds & _PARAMETERS),
    )


def needed(packets: Sequence[Packet], wanted: frozenset[int]) -> frozenset[int]:
    """Time stamps of the packets that must be decoded for the pictures at ``wanted``."""
    found: set[int] = set()
    behind = False  # whether a wanted picture follows in decoding order before the next IDR
    keep_all = not _refreshable(packets)
    for packet in reversed(packets):
        if packet.pts in wanted:
            found.add(packet.pts)
            behind = True
        elif packet.reference and (behind or keep_all):
            found.add(packet.pts)
        if packet.idr:
            behind = False
    return frozenset(found)


def _refreshable(packets: Sequence[Packet]) -> bool:
    """Whether no IDR needs parameter sets from a packet that may be skipped."""
    carrying = {(packet.idr, packet.parameters) for packet in packets}
    return (False, True) not in carrying and not carrying >= {(True, True), (True, False)}


def _after_lengths(data: memoryview, prefix: int) -> Iterator[int]:
    place = 0
    while place + prefix < len(data):
        yield data[place + prefix]
        place += prefix + int.from_bytes(data[place : place + prefix], "big")


def _after_start_codes(data: memoryview) -> Iterator[int]:
    text = bytes(data)
    place = text.find(b"\0\0\1")
    while 0 <= place < len(text) - 3:
        yield text[place + 3]
        place = text.find(b"\0\0\1", place + 3)
