"""What the user's words are while they are being said: when to decode, and which words to show. Pure.

One object per turn. It asks for interims so that they cost little and never make a final wait:

* every ``interim_ms``, one at a time, and less often when they take long: two thirds of the time are left to others;
* only while the newest audio is loud, since behind the first silence a final may be asked for;
* never once a final was asked for, until the user goes on;
* of 8 s of audio at most. Of a longer turn the beginning is closed at a quiet place: decoded once more, for itself, and then kept.

Shown is a *stable prefix* and a tail. Words on which two interims in a row agree are stable: later ones do not change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from rtvi_actors.stt.engine import SAMPLE_RATE_HZ
from rtvi_actors.stt.plausible import is_typical_invention

SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1_000
MIN_SPEECH_MS: Final = 300
"""Of less speech nothing is decoded: the model makes words up."""
SPACING: Final = 3
"""From one interim to the next it takes at least this many times as long as the last one took."""
QUIET_SHARE: Final = 0.1
"""Audio below this share of the turn's loudest is a silence."""
SEGMENT_SAMPLES: Final = 8 * SAMPLE_RATE_HZ
EARLIEST_CUT_SAMPLES: Final = 5 * SAMPLE_RATE_HZ
CUT_WIDTH: Final = 5
"""A segment is closed in the middle of the quietest so many pieces in a row between the two."""
SHIFT_WORDS: Final = 3
"""How far the words of one interim may have moved against those of the one before."""

# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Opened:
    """The turn began. ``under_bot``: the bot is thinking or speaking, so that its first words are wanted soon."""

    under_bot: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """The turn's audio is ``length`` samples long now; the newest piece is so loud (:func:`~stt.segments.loudness`)."""

    length: int
    loudness: float


@dataclass(frozen=True, slots=True)
class PartTaken:
    """The audio before sample ``place`` of the turn is gone: it is being decoded as a part."""

    place: int


@dataclass(frozen=True, slots=True)
class FinalAsked:
    """A final was asked for, or the turn is over."""


@dataclass(frozen=True, slots=True)
class SpeechGoesOn:
    """That final is void: the user went on."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The interim that was asked for."""

    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no answer."""


Event: TypeAlias = Opened | Heard | PartTaken | FinalAsked | SpeechGoesOn | Answered | Failed

# ------------------------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Ask:
    """Decode samples ``first`` (inclusive) to ``last`` (exclusive) of the turn. One Answered or Failed must follow."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Forget what was asked for: neither Answered nor Failed may follow."""


@dataclass(frozen=True, slots=True)
class Tell:
    """The turn's words so far are ``text``."""

    text: str
    language: str


Command: TypeAlias = Ask | Withdraw | Tell


class Interims:
    """The interims of one turn. ``interim_ms``: least time from one to the next."""

    def __init__(self, interim_ms: int) -> None:
        self._interim_ms = interim_ms
        self._due_ms: int | None = None
        self._asked_ms: int | None = None
        """When the one in flight was asked for; None if there is none."""
        self._closing: int | None = None
        """Where the segment is cut that the one in flight closes."""
        self._listening = True
        self._pieces: list[tuple[int, float]] = []
        """(end, loudness) of each piece of the segment."""
        self._first = 0
        self._closed: list[str] = []
        """Words of the segments before."""
        self._words = Agreement()
        self._told = ""

    def handle(self, event: Event, now_ms: int) -> list[Command]:
        """Take one event; returns what must be done, in order."""
        if self._due_ms is None:
            self._due_ms = now_ms + self._interim_ms
        match event:
            case Opened(under_bot):
                if under_bot:
                    self._due_ms = min(self._due_ms, now_ms)
            case Heard():
                self._pieces.append((event.length, event.loudness))
                return self._ask(event.length, now_ms)
            case PartTaken(place):
                return self._leave_behind(place)
            case FinalAsked():
                self._listening = False
                return self._withdraw()
            case SpeechGoesOn():
                self._listening = True
            case Answered():
                return self._read(event, now_ms)
            case Failed():
                self._asked_ms = self._closing = None
                self._due_ms = now_ms + self._interim_ms
        return []

    # ---------------------------------------------------------------------------------------------------------- when to ask

    def _ask(self, length: int, now_ms: int) -> list[Command]:
        if not self._listening or self._asked_ms is not None or self._due_ms is None or now_ms < self._due_ms:
            return []
        quiet = QUIET_SHARE * max(loudness for _, loudness in self._pieces)
        if self._pieces[-1][1] <= quiet or self._speech_samples(quiet) < MIN_SPEECH_MS * SAMPLES_PER_MS:
            return []
        self._closing = self._cut() if length - self._first > SEGMENT_SAMPLES else None
        self._asked_ms = now_ms
        return [Ask(self._first, length if self._closing is None else self._closing)]

    def _speech_samples(self, quiet: float) -> int:
        """How much of the segment is loud."""
        begin, loud = self._first, 0
        for end, loudness in self._pieces:
            loud += (end - begin) * (loudness > quiet)
            begin = end
        return loud

    def _cut(self) -> int:
        """A quiet place between the earliest and the latest at which the segment may be closed."""
        inside = [(end, loudness) for end, loudness in self._pieces if EARLIEST_CUT_SAMPLES <= end - self._first <= SEGMENT_SAMPLES]
        if len(inside) < CUT_WIDTH:
            return self._first + SEGMENT_SAMPLES
        levels = [loudness for _, loudness in inside]
        sums = [sum(levels[at : at + CUT_WIDTH]) for at in range(len(levels) - CUT_WIDTH + 1)]
        return inside[sums.index(min(sums)) + CUT_WIDTH // 2][0]

    def _landed(self, now_ms: int) -> None:
        """The one in flight is over."""
        took_ms = now_ms - (now_ms if self._asked_ms is None else self._asked_ms)
        self._due_ms = now_ms - took_ms + max(self._interim_ms, SPACING * took_ms)
        self._asked_ms = self._closing = None

    def _withdraw(self) -> list[Command]:
        if self._asked_ms is None:
            return []
        self._asked_ms = self._closing = None
        return [Withdraw()]

    # ---------------------------------------------------------------------------------------------------------- what to show

    def _read(self, answer: Answered, now_ms: int) -> list[Command]:
        cut = self._closing
        self._landed(now_ms)
        self._words.add(answer.text.split())
        if cut is not None:
            # Its last words are not told now: those behind the cut, which were, would vanish for a moment.
            self._close(cut)
            self._due_ms = now_ms
            return []
        return self._tell(answer.language)

    def _tell(self, language: str) -> list[Command]:
        # Whisper ends any fragment with a full stop, or with dots.
        text = " ".join([*self._closed, *self._words.shown]).rstrip(" .…,-")
        if not any(map(str.isalnum, text)) or is_typical_invention(text) or text == self._told:
            return []
        self._told = text
        return [Tell(text, language)]

    def _leave_behind(self, place: int) -> list[Command]:
        """The audio before ``place`` cannot be decoded any more: what was last heard of the segment stands for it."""
        if place <= self._first:
            return []
        withdrawn = self._withdraw()
        self._close(place)
        return withdrawn

    def _close(self, place: int) -> None:
        self._closed += self._words.shown
        self._words = Agreement()
        self._first = place
        self._pieces = [piece for piece in self._pieces if piece[0] > place]


class Agreement:
    """Words that two hypotheses in a row agree on stay as they are; behind them stands the rest of the newest one."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self._stable = 0
        """How many of them do not change any more."""

    def add(self, words: list[str]) -> None:
        """Take a new hypothesis of all words. An empty one says nothing."""
        if not words:
            return
        before, stable = self.shown, self.shown[: self._stable]
        self.shown = stable + words[_behind(stable, words) :]
        agreed = self._stable
        # The last word may be half a word.
        while agreed < min(len(before), len(self.shown) - 1) and _plain(before[agreed]) == _plain(self.shown[agreed]):
            agreed += 1
        self._stable = agreed


def _behind(stable: list[str], words: list[str]) -> int:
    """Where in ``words`` those begin that follow on ``stable``: behind its last two words, or its last one, or as many."""
    count = len(stable)
    around = range(max(0, count - SHIFT_WORDS), min(len(words), count + SHIFT_WORDS) + 1)
    nearest = sorted(around, key=lambda at: abs(at - count))
    for width in (2, 1):
        last = [_plain(word) for word in stable[-width:]]
        for at in nearest:
            if len(last) == width <= at and [_plain(word) for word in words[at - width : at]] == last:
                return at
    return min(count, len(words))


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word)).lower()
