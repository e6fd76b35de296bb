"""What the pool and its workers say to each other: JSON in frames with a length before them.

    pool -> worker   the setup, once: a mapping, see `bapo.reward.worker`
    worker -> pool   {"interface": {...}} or {"failed": sentence}, once
    pool -> worker   [[item, completion, columns], ...], a chunk; a completion is a text or a list
                     of messages; without one (null) the columns themselves are to be checked
    worker -> pool   [item, milliseconds, [status, correct, score, detail, out_of_memory]], for
                     each item of the chunk in order, as soon as it is known

JSON and not pickle, so that what a worker sends can be wrong but cannot run code.
"""

import json
import os
import struct
from typing import Any, Final

MAX_ANSWER_BYTES: Final = 1 << 24
_HEADER: Final = struct.Struct(">I")


class ProtocolError(Exception):
    """The other side sent something that is not a frame."""


def frame(body: bytes) -> bytes:
    """A JSON text with its length before it."""
    return _HEADER.pack(len(body)) + body


def encode(message: Any) -> bytes:
    """A message as a frame.

    Raises:
        TypeError, ValueError, RecursionError: The message is not made of JSON values.
    """
    return frame(json.dumps(message, separators=(",", ":")).encode("ascii"))


class FrameReader:
    """Puts frames together from bytes as they arrive.

    Args:
        limit: Largest body accepted, in bytes.
    """

    def __init__(self, limit: int = MAX_ANSWER_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete with `data`.

        Raises:
            ProtocolError: A frame is too long or is not JSON.
        """
        self._buffer += data
        messages: list[Any] = []
        start = 0
        while len(self._buffer) >= start + _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer, start)
            if length > self._limit:
                raise ProtocolError(f"a frame of {length} bytes")
            end = start + _HEADER.size + length
            if len(self._buffer) < end:
                break
            messages.append(_decode(bytes(self._buffer[start + _HEADER.size : end])))
            start = end
        del self._buffer[:start]
        return messages


def read_message(descriptor: int) -> Any:
    """The next message, waiting for it; the worker's side, which trusts the pool.

    Raises:
        EOFError: The other side is gone.
    """
    (length,) = _HEADER.unpack(_read_exactly(descriptor, _HEADER.size))
    return _decode(_read_exactly(descriptor, length))


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`, waiting where it must."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame that is not JSON") from error


def _read_exactly(descriptor: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(descriptor, min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
