"""Turn taking as a pure state machine: what is heard goes in, what the actors must be told comes out.

A *user turn* is opened by speech and is over when a silence was long enough. It is *confirmed* from the start when the bot was
silent. One opened while the bot was thinking or speaking (``under_bot``) may be a cough: it first pauses the bot, and is confirmed
by words or by enough speech. **An under_bot turn is confirmed only by its CancelBot**, also when the bot fell silent by itself in
the meantime: then the reason is "bot finished". One that is never confirmed is void: it gets its EndTurn, the paused bot gets its
ResumeBot, and nothing else is said about it. Where no transcript comes at all, the verdict falls ``resume_after_ms`` after the
pause or the latest attempt, whichever is later.

The *bot* counts as thinking from the moment a turn is ended or started for it, before the edge can say so, until the edge says
otherwise or the turn's final proves empty. So speech right behind a committed turn is a barge-in, not a second voice.

Every turn that starts ends, by EndTurn or by a CancelBot with a higher fence. Whatever waits has a deadline; WakeAt asks for a Tick
at the next one. A deadline that moved away is not announced: the Tick then comes early and asks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rtvi_actors.config import Speaking
from rtvi_actors.speaking.endpointing import has_words, wait_ms
from rtvi_actors.speaking.events import (
    SAMPLE_RATE_HZ,
    WINDOW_MS,
    WINDOW_SAMPLES,
    BotStateSeen,
    CancelBot,
    Command,
    EndTurn,
    Event,
    ForwardAudio,
    LogEntry,
    MayEnd,
    PauseBot,
    RefuseRequest,
    Requested,
    ResumeBot,
    Resumed,
    SpeechWindow,
    StartTurn,
    Tick,
    TranscriptSeen,
    WakeAt,
)

_SAMPLES_PER_MS: Final = SAMPLE_RATE_HZ // 1_000
MAX_REQUESTS: Final = 16
"""Turn requests that wait; one more is refused."""
LOG_ENTRIES: Final = 512
THINKING_LIMIT_MS: Final = 30_000
"""A turn of the bot's that the edge says nothing about for this long is given up: cancelled, for everybody."""
ANSWER_LIMIT_MS: Final = 1_800_000
"""The same once the edge said that the bot thinks or speaks. Longer than any answer, since the edge will say when it is over."""


@dataclass(slots=True)
class _UserTurn:
    turn: int
    confirmed: bool
    opened_ms: int
    last_speech_ms: int
    speech_end: int
    """Sample behind the last speech window."""
    speech_windows: int
    silent_windows: int = 0
    attempt: int = 0
    waiting: bool = False
    """The attempt is out, and the user has not gone on since."""
    attempt_ms: int = 0
    text: str | None = None
    """Final of that attempt."""
    language: str = ""
    longest_pause_ms: int = 0
    paused_turn: int | None = None
    """The bot's turn that was paused for this one ..."""
    paused_ms: int = 0
    """... and when."""


@dataclass(slots=True)
class _Bot:
    turn: int = 0
    state: str = "silent"
    since_ms: int = 0
    attempt: int = 0
    """The attempt with which the user's part ended; 0 for a turn without speech."""
    told: bool = True
    """The edge said so; otherwise it is what must come."""


class TurnMachine:
    """One session's turns. ``settings``: the section ``speaking`` of the configuration.

    ``now_ms`` must not fall from one :meth:`handle` to the next; turns and attempts only grow.
    """

    def __init__(self, settings: Speaking) -> None:
        self._settings = settings
        self._turn = 0
        self._fence = 0
        self._user: _UserTurn | None = None
        self._bot = _Bot()
        self._requests: deque[Requested] = deque()
        self._run = 0
        """Speech windows in a row, up to the last window ..."""
        self._run_from = 0
        """... and the first sample of theirs."""
        self._last_window_ms = 0
        self._last_sample = 0
        self._ended_sample = 0
        """Speech up to here belongs to an earlier turn."""
        self._wake_ms: int | None = None
        self._out: list[Command] = []
        self._log: deque[LogEntry] = deque(maxlen=LOG_ENTRIES)

    @property
    def log(self) -> Sequence[LogEntry]:
        """The latest steps, oldest first; bounded."""
        return tuple(self._log)

    @property
    def idle(self) -> bool:
        """Nobody speaks, nothing waits: no Tick is needed."""
        return self._user is None and self._bot.state == "silent" and not self._requests

    def handle(self, event: Event, now_ms: int) -> list[Command]:
        """Take one event; returns what must be done, in order."""
        self._out = []
        match event:
            case SpeechWindow():
                self._hear(event, now_ms)
            case TranscriptSeen():
                self._read(event)
            case BotStateSeen():
                self._watch_bot(event, now_ms)
            case Requested():
                self._ask(event, now_ms)
            case Tick():
                self._wake_ms = None
        self._expire(now_ms)
        if self._requests and self._user is None and self._bot.state == "silent":
            self._begin(self._requests.popleft(), now_ms)
        self._arm()
        self._log.append(LogEntry(now_ms, event, tuple(self._out)))
        return self._out

    # ------------------------------------------------------------------------------------------------------ what is heard

    def _hear(self, window: SpeechWindow, now_ms: int) -> None:
        self._last_window_ms = now_ms
        self._last_sample = window.first_sample + WINDOW_SAMPLES
        if not window.speech:
            self._run = 0
        else:
            if self._run == 0:
                self._run_from = window.first_sample
            self._run += 1
        user = self._user
        if user is None:
            if self._run >= self._settings.start_windows:
                self._open(now_ms)
        elif window.speech:
            self._hear_speech(user, now_ms)
        else:
            user.silent_windows += 1
            if not user.waiting and user.silent_windows >= self._settings.silence_windows:
                self._try_to_end(user, now_ms)

    def _open(self, now_ms: int) -> None:
        self._turn += 1
        under_bot = self._bot.state != "silent"
        user = _UserTurn(
            turn=self._turn,
            confirmed=not under_bot,
            opened_ms=now_ms,
            last_speech_ms=now_ms,
            speech_end=self._last_sample,
            speech_windows=self._run,
        )
        self._user = user
        # Pre-roll, but nothing that an earlier turn has had. Sample counts may jump, hence the lower bound by the onset.
        pre_roll = self._run_from - self._settings.pre_roll_ms * _SAMPLES_PER_MS
        from_sample = max(0, min(self._run_from, max(pre_roll, self._ended_sample)))
        self._out += [StartTurn(self._turn, "speech", under_bot=under_bot), ForwardAudio(self._turn, from_sample)]
        self._barge_in(user, now_ms)

    def _hear_speech(self, user: _UserTurn, now_ms: int) -> None:
        """Speech inside a turn. Behind a silence it takes as many windows as at an onset; a single one only delays the end."""
        if user.waiting:
            if self._run < self._settings.start_windows:
                return
            self._out.append(Resumed(user.turn, user.attempt))
            pause_ms = (self._run_from - user.speech_end) // _SAMPLES_PER_MS
            user.longest_pause_ms = max(user.longest_pause_ms, pause_ms)
            user.waiting, user.text = False, None
            user.speech_windows += self._run
        else:
            user.speech_windows += 1
        user.silent_windows = 0
        user.last_speech_ms, user.speech_end = now_ms, self._last_sample
        self._barge_in(user, now_ms)

    def _try_to_end(self, user: _UserTurn, now_ms: int) -> None:
        """A new attempt. It takes the silence along that is there: voiceless endings hide in it."""
        self._run = 0  # where the microphone stopped in mid-speech, the run is over too
        user.attempt += 1
        user.attempt_ms, user.waiting, user.text = now_ms, True, None
        self._out.append(MayEnd(user.turn, user.attempt, self._last_sample))

    def _read(self, transcript: TranscriptSeen) -> None:
        user, bot = self._user, self._bot
        if user is not None and transcript.turn == user.turn:
            if not user.confirmed and has_words(transcript.text):
                self._confirm(user)
            if transcript.final and user.waiting and transcript.attempt == user.attempt:
                user.text, user.language = transcript.text, transcript.language
            return
        due = not bot.told and (transcript.turn, transcript.attempt) == (bot.turn, bot.attempt)
        if due and transcript.final and not transcript.text.strip():
            bot.state = "silent"  # a void turn: nothing will be answered

    # ------------------------------------------------------------------------------------------------------------ the bot

    def _watch_bot(self, seen: BotStateSeen, now_ms: int) -> None:
        user = self._user
        if seen.turn < max(self._fence, self._bot.turn) or seen.turn > self._turn:
            return  # of a cancelled turn, or overtaken by a newer one
        if seen.state not in ("silent", "thinking", "speaking") or (user is not None and seen.turn == user.turn):
            return
        self._bot = _Bot(seen.turn, seen.state, now_ms)
        if user is None or seen.state == "silent":
            return
        if user.confirmed:  # it was taken for silent, and now there are two voices
            self._cancel(user.turn, "user speaks")
        else:
            self._barge_in(user, now_ms)

    def _barge_in(self, user: _UserTurn, now_ms: int) -> None:
        """Weigh the speech of a turn that is not confirmed yet."""
        if user.confirmed:
            return
        speech_ms = user.speech_windows * WINDOW_MS
        if speech_ms >= self._settings.confirm_after_ms:
            self._confirm(user)
        elif speech_ms >= self._settings.pause_after_ms and user.paused_turn is None and self._bot.state != "silent":
            user.paused_turn, user.paused_ms = self._bot.turn, now_ms
            self._out.append(PauseBot(self._bot.turn))

    def _confirm(self, user: _UserTurn) -> None:
        user.confirmed, user.paused_turn = True, None
        self._cancel(user.turn, "bot finished" if self._bot.state == "silent" else "barge-in")

    def _cancel(self, fence: int, reason: str) -> None:
        self._bot.state = "silent"
        if fence > self._fence:
            self._fence = fence
            self._out.append(CancelBot(fence, reason))

    # ----------------------------------------------------------------------------------------------------------- requests

    def _ask(self, request: Requested, now_ms: int) -> None:
        if request.interrupt:
            if self._user is not None:
                self._close(self._user)
            self._cancel(self._turn + 1, request.source)
            self._begin(request, now_ms)
        elif len(self._requests) >= MAX_REQUESTS:
            self._out.append(RefuseRequest(request.request, f"{MAX_REQUESTS} turns are waiting already"))
        else:
            self._requests.append(request)

    def _begin(self, request: Requested, now_ms: int) -> None:
        self._turn += 1
        self._bot = _Bot(self._turn, "thinking", now_ms, told=False)
        self._out.append(StartTurn(self._turn, request.source, request.request))

    # --------------------------------------------------------------------------------------------------------------- time

    def _end(self, user: _UserTurn, now_ms: int) -> None:
        """The turn is over: to be answered when it is confirmed, else void."""
        if not user.waiting:
            self._try_to_end(user, now_ms)
        self._out.append(EndTurn(user.turn, user.attempt, user.speech_end))
        self._close(user)
        if user.paused_turn is not None:
            self._out.append(ResumeBot(user.paused_turn))
        empty = user.text is not None and not user.text.strip()
        if user.confirmed and not empty:
            self._bot = _Bot(user.turn, "thinking", now_ms, attempt=user.attempt, told=False)

    def _close(self, user: _UserTurn) -> None:
        self._user = None
        self._run = 0
        self._ended_sample = user.speech_end

    def _expire(self, now_ms: int) -> None:
        """Do what the time asks for."""
        if now_ms >= self._bot_deadline(self._bot):
            self._give_up()
        user = self._user
        if user is None or now_ms < self._deadline(user):
            return
        too_long = now_ms >= user.opened_ms + self._settings.max_turn_ms
        if not user.confirmed and not user.waiting and not too_long:
            self._try_to_end(user, now_ms)  # the microphone fell silent; words may still confirm it
        else:
            self._end(user, now_ms)

    def _deadline(self, user: _UserTurn) -> int:
        """When something must happen to the turn if nothing is heard until then."""
        settings = self._settings
        if not user.waiting or self._run > 0:  # in speech, or perhaps again: the next window will tell
            at_ms = self._last_window_ms + settings.missing_audio_ms
        elif user.confirmed:
            at_ms = user.last_speech_ms + wait_ms(
                user.text, settings, longest_pause_ms=user.longest_pause_ms, language=user.language
            )
        elif user.text is not None:  # there were no words in it
            at_ms = user.attempt_ms
        else:
            # Each attempt gets the whole wait: words of a slow transcript that come behind the verdict would be lost.
            since_ms = user.opened_ms if user.paused_turn is None else user.paused_ms
            at_ms = max(since_ms, user.attempt_ms) + settings.resume_after_ms
        return min(at_ms, user.opened_ms + settings.max_turn_ms)

    @staticmethod
    def _bot_deadline(bot: _Bot) -> float:
        if bot.state == "silent":
            return float("inf")
        return bot.since_ms + (ANSWER_LIMIT_MS if bot.told else THINKING_LIMIT_MS)

    def _give_up(self) -> None:
        """The bot owes an answer for too long. To take it for silent is not enough: the others still wait for that answer, and
        would keep every later one behind it.
        """
        user = self._user
        if user is not None:
            user.confirmed, user.paused_turn = True, None
        self._cancel(self._turn + 1 if user is None else user.turn, "no answer")

    def _arm(self) -> None:
        deadlines = [] if self._user is None else [self._deadline(self._user)]
        if self._bot.state != "silent":
            deadlines.append(int(self._bot_deadline(self._bot)))
        if deadlines and (self._wake_ms is None or min(deadlines) < self._wake_ms):
            self._wake_ms = min(deadlines)
            self._out.append(WakeAt(self._wake_ms))
