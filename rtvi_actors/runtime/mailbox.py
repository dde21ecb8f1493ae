"""The bounded queues of a link, and the credit windows of its bulk streams. Pure: no loop, no clock, no sockets.

What happens when a queue is full is part of its meaning, and stated here:

* user audio (:class:`~rtvi_actors.frames.types.Audio`): the newest ten seconds of a session stay, the rest is dropped and counted;
* control frames: none is dropped. A session with more than 256 waiting cannot be served any more and must end;
* other data: the same beyond 4 MiB of a session. Its bulk never gets there: it waits for credit at its producer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from types import MappingProxyType

from rtvi_actors.frames.types import Lane

AUDIO_WAITING_SAMPLES = 160_000
"""User audio (16 kHz) of one session that may wait: ten seconds, what a client may have recorded while it connected."""
CONTROL_WAITING_FRAMES = 256
DATA_WAITING_BYTES = 4 * 1024 * 1024

WINDOW_BYTES: Mapping[str, int] = MappingProxyType({"bot_audio": 96_000, "clause": 4_096, "text": 65_536})
"""Credited streams: bot_audio (tts > edge, 2 s), clause (llm > tts, bytes of text), text (llm > edge, bytes of text)."""


class Outbox:
    """What waits for one peer on one lane while its socket is full: encoded frames, in order per session.

    Attributes:
        dropped_samples: user audio dropped so far.
        dropped_frames: all frames dropped so far, those of overflowed sessions included.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._queues: OrderedDict[str, _SessionQueue] = OrderedDict()
        self._frames = 0
        self.dropped_samples = 0
        self.dropped_frames = 0

    def __len__(self) -> int:
        """Frames that wait."""
        return self._frames

    @property
    def size_bytes(self) -> int:
        """Bytes that wait."""
        return sum(queue.audio_bytes + queue.other_bytes for queue in self._queues.values())

    def push(self, session: str, data: bytes, audio_samples: int = 0) -> str | None:
        """Let ``data`` wait. ``audio_samples``: its samples of user audio, 0 for any other frame.

        Returns None, or what overflowed: then everything that waited for the session is dropped, ``data`` too, and the
        session must end.
        """
        queue = self._queues.get(session)
        if queue is None:
            queue = self._queues[session] = _SessionQueue()
        queue.append(data, audio_samples)
        self._frames += 1
        while queue.samples > AUDIO_WAITING_SAMPLES and len(queue.audio) > 1:
            self.dropped_samples += queue.drop_oldest_audio()
            self.dropped_frames += 1
            self._frames -= 1
        overflow = self._overflow(queue)
        if overflow is not None:
            self.dropped_frames += queue.frames
            self._frames -= queue.frames
            del self._queues[session]
        return overflow

    def pop(self, max_bytes: int) -> list[bytes]:
        """Take frames off, one session after the other, until the next would exceed ``max_bytes``; at least one if any waits."""
        taken: list[bytes] = []
        room_bytes = max_bytes
        while self._queues:
            session, queue = next(iter(self._queues.items()))
            if taken and queue.head_bytes() > room_bytes:
                break
            data = queue.popleft()
            taken.append(data)
            room_bytes -= len(data)
            self._frames -= 1
            if queue.frames:
                self._queues.move_to_end(session)
            else:
                del self._queues[session]
        return taken

    def _overflow(self, queue: _SessionQueue) -> str | None:
        if self._lane == "control" and queue.frames > CONTROL_WAITING_FRAMES:
            return f"more than {CONTROL_WAITING_FRAMES} control frames wait"
        if self._lane == "data" and queue.other_bytes > DATA_WAITING_BYTES:
            return f"more than {DATA_WAITING_BYTES} bytes of data wait"
        return None


class _Waiting:
    """One frame in a queue. ``data`` is None once it was dropped out of the middle."""

    __slots__ = ("data", "samples")

    def __init__(self, data: bytes, samples: int) -> None:
        self.data: bytes | None = data
        self.samples = samples


class _SessionQueue:
    """One session's frames in order. Audio is also listed by itself, since it is dropped from between other frames."""

    __slots__ = ("audio", "audio_bytes", "frames", "order", "other_bytes", "samples")

    def __init__(self) -> None:
        self.order: deque[_Waiting] = deque()
        self.audio: deque[_Waiting] = deque()
        self.frames = 0
        self.samples = 0
        self.audio_bytes = 0
        self.other_bytes = 0

    def append(self, data: bytes, samples: int) -> None:
        waiting = _Waiting(data, samples)
        self.order.append(waiting)
        self.frames += 1
        if samples:
            self.audio.append(waiting)
            self.samples += samples
            self.audio_bytes += len(data)
        else:
            self.other_bytes += len(data)

    def head_bytes(self) -> int:
        """Size of the next frame. There must be one."""
        while (data := self.order[0].data) is None:
            self.order.popleft()
        return len(data)

    def popleft(self) -> bytes:
        size_bytes = self.head_bytes()
        waiting = self.order.popleft()
        if waiting.samples:
            self.audio.popleft()
            self.samples -= waiting.samples
            self.audio_bytes -= size_bytes
        else:
            self.other_bytes -= size_bytes
        self.frames -= 1
        return waiting.data or b""

    def drop_oldest_audio(self) -> int:
        """Drop one frame of audio; its samples."""
        waiting = self.audio.popleft()
        self.samples -= waiting.samples
        self.audio_bytes -= len(waiting.data or b"")
        self.frames -= 1
        waiting.data = None
        # Behind a frame that does not move the holes would pile up for ever.
        if len(self.order) > 2 * self.frames + 16:
            self.order = deque(each for each in self.order if each.data is not None)
        return waiting.samples


class CreditWindow:
    """How much of one stream its producer may send before the receiver grants more.

    A frame larger than the whole window passes when nothing is outstanding, so that it cannot wait for ever.
    """

    __slots__ = ("_limit_bytes", "_outstanding_bytes")

    def __init__(self, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise ValueError(f"a window of {limit_bytes} bytes; it must be 1 or more")
        self._limit_bytes = limit_bytes
        self._outstanding_bytes = 0

    @property
    def outstanding_bytes(self) -> int:
        """Sent and not granted back."""
        return self._outstanding_bytes

    def take(self, size_bytes: int) -> bool:
        """Whether ``size_bytes`` may be sent now; if so, they count as sent."""
        if self._outstanding_bytes and self._outstanding_bytes + size_bytes > self._limit_bytes:
            return False
        self._outstanding_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """The receiver granted ``size_bytes``. More than is outstanding counts as all of it: a window never grows."""
        self._outstanding_bytes = max(0, self._outstanding_bytes - size_bytes)
