"""What an H.264 packet says of itself without being decoded: ITU-T H.264 (08/2021), 7.3.1 and 7.4.1.

An instantaneous decoding refresh (IDR) picture ends every dependence: no picture after it, in decoding order,
is predicted from one before it (7.4.1.2.4). So whatever lies between the last wanted
picture and the next IDR can be left out, and so can all pictures from one IDR to the next.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_SLICES: Final = frozenset((1, 2, 5))
_PARAMETERS: Final = frozenset((7, 8, 13, 15))
_IDR: Final = 5


@dataclass(frozen=True, slots=True)
class Packet:
    """One access unit: ``pts`` in the stream's time base, ``reference`` where others may be predicted
    from it, ``idr``, and ``parameters`` where parameter sets travel in it."""

    pts: int
    reference: bool
    idr: bool
    parameters: bool


def describe(pts: int, data: memoryview, extradata: bytes | None) -> Packet:
    """Read the headers of an access unit's NAL units.

    :param extradata: the stream's; an ``avcC`` record (ISO/IEC 14496-15, 5.3.3.1) says that units
        have their length before them, otherwise start codes part them (Annex B).
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
    """Time stamps of the packets to decode for the pictures at ``wanted``, their own among them."""
    found: set[int] = set()
    behind = False  # whether a wanted picture comes later in decoding order, before the next IDR
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
    """Whether no IDR needs parameter sets from a packet that may be left out."""
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
