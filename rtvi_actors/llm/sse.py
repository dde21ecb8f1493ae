"""Server-sent events out of bytes, however they were cut on the way. Pure."""

from __future__ import annotations

from rtvi_actors.errors import EngineError

MAX_EVENT_BYTES = 262_144
"""Longest event. A piece of an answer has some hundred bytes."""


class SseEvents:
    """Takes the body of a ``text/event-stream`` piece by piece, and gives the data of its events.

    Only ``data`` is read; comments and other fields are skipped. Lines end with LF, CR or both. An event without the empty line
    that ends it never came.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._first_line = True

    def push(self, chunk: bytes) -> list[bytes]:
        """Add ``chunk`` and take the events that are complete with it.

        Raises:
            EngineError: an event is longer than allowed.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        events: list[bytes] = []
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines[:-1]:
            self._add(line)
            self._end_line(events)
        self._add(lines[-1])
        return events

    def _add(self, part: bytes) -> None:
        if len(self._line) + len(part) + self._data_bytes > self._max_event_bytes:
            raise EngineError(f"the endpoint sent an event of more than {self._max_event_bytes} bytes")
        self._line += part

    def _end_line(self, events: list[bytes]) -> None:
        line = bytes(self._line)
        self._line.clear()
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._end_event(events)
        elif line.startswith(b"data:") or line == b"data":
            self._data.append(line[5:].removeprefix(b" "))
            self._data_bytes += len(line)

    def _end_event(self, events: list[bytes]) -> None:
        if self._data:
            events.append(b"\n".join(self._data))
            self._data.clear()
            self._data_bytes = 0
