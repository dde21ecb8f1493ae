"""Turn taking as a pure state machine: what is heard goes in, what the actors must be told comes out.

A *user turn* is opened by speech and is over when a silence was long enough. It is *confirmed* from the start when the bot was
silent. One opened while the bot was thinking or speaking (``under_bot``) may be a cough or a backchannel: it first pauses the bot,
and ``barge_in`` says what confirms it. **An under_bot turn is confirmed only by its CancelBot**, also when the bot fell silent by
itself in the meantime: then the reason is "bot finished". One that is never confirmed is void: it gets its EndTurn, the paused bot
its ResumeBot, and nothing else is said about it. After a backchannel the bot is let go on at once, and the verdict follows a little
later: "yes" is an answer when the bot had just finished its question. Where the transcript is slow, the bot is let go on without
it, and words that come late still interrupt it.

A turn may *reopen* the one before: the user went on within ``reopen_within_ms`` of an end that came too early, and has not heard
the bot yet. It is an under_bot turn like any other, but once it is confirmed the words of both are one message; if it comes to
nothing, the one before is answered. Text that is typed in mid-sentence ends the sentence and reopens it in the same way.

The *bot* counts as thinking from the moment a turn is ended or started for it, before the edge can say so, until the edge says
otherwise or the words of the turn prove to be none. So speech right behind a committed turn is a barge-in, not a second voice.

Every turn that starts ends, by EndTurn; a CancelBot voids answers, never the words of a turn that has ended. Whatever waits has a
deadline; WakeAt asks for a Tick at the next one. A deadline that moved away is not announced: the Tick then comes early and asks
again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from rtvi_actors.config import Speaking
from rtvi_actors.speaking import barge_in
from rtvi_actors.speaking.backchannels import Backchannels, count_words
from rtvi_actors.speaking.endpointing import has_words, how_finished, wait_ms
from rtvi_actors.speaking.events import (
    WINDOW_MS,
    AskEnd,
    BotStateSeen,
    CancelBot,
    Command,
    EndJudged,
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
from rtvi_actors.speaking.floor import BotTurn, Ear, Said, UserTurn

MAX_REQUESTS: Final = 16
"""Turn requests that wait; one more is refused."""
LOG_ENTRIES: Final = 512
THINKING_LIMIT_MS: Final = 30_000
"""A turn of the bot's that the edge says nothing about for this long is given up: cancelled, for everybody."""
ANSWER_LIMIT_MS: Final = 1_800_000
"""The same once the edge said that the bot thinks or speaks. Longer than any answer, since the edge will say when it is over."""
JUDGE_LIMIT_MS: Final = 100
"""How long an end-of-turn model may take; then the rules judge."""


class TurnMachine:
    """One session's turns. ``settings``: the section ``speaking`` of the configuration. ``ask_model``: AskEnd is answered.

    ``last_turn``: of those that another machine has begun, all over; the next one is the next number.

    ``now_ms`` must not fall from one :meth:`handle` to the next; turns and attempts only grow.
    """

    def __init__(self, settings: Speaking, ask_model: bool = False, last_turn: int = 0) -> None:
        self._settings = settings
        self._ask_model = ask_model
        self._backchannels = Backchannels(settings.backchannels)
        self._turn = last_turn
        self._fence = 0
        self._user: UserTurn | None = None
        self._bot = BotTurn()
        self._requests: deque[Requested] = deque()
        self._ear = Ear()
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
                self._read(event, now_ms)
            case BotStateSeen():
                self._watch_bot(event, now_ms)
            case Requested():
                self._ask(event, now_ms)
            case EndJudged():
                self._judged(event)
            case Tick():
                self._wake_ms = None
        self._expire(now_ms)
        if self._requests and self._user is None and self._bot.state == "silent":
            self._begin(self._requests.popleft(), None, now_ms)
        self._arm()
        self._log.append(LogEntry(now_ms, event, tuple(self._out)))
        return self._out

    # ------------------------------------------------------------------------------------------------------ what is heard

    def _hear(self, window: SpeechWindow, now_ms: int) -> None:
        self._ear.hear(window, now_ms)
        user = self._user
        if user is None:
            rules = barge_in.rules_of(self._bot.state, self._settings)
            if self._ear.run >= (self._settings if rules is None else rules).start_windows:
                self._open(now_ms)
        elif window.speech:
            self._hear_speech(user, now_ms)
        else:
            user.silent_windows += 1
            if not user.waiting and user.silent_windows >= self._settings.silence_windows:
                self._try_to_end(user, now_ms)

    def _open(self, now_ms: int) -> None:
        self._turn += 1
        settings, rules = self._settings, barge_in.rules_of(self._bot.state, self._settings)
        user = UserTurn(
            turn=self._turn,
            rules=rules,
            over_speech=self._bot.state == "speaking",
            opened_ms=now_ms,
            last_speech_ms=now_ms,
            speech_end=self._ear.last_sample,
            speech_windows=self._ear.run,
            before=self._bot.gone_on_with(now_ms - (self._ear.run - 1) * WINDOW_MS, settings.reopen_within_ms),
            confirmed=rules is None,
        )
        self._user = user
        reopens = user.before.turn if user.before is not None else 0
        self._out += [
            StartTurn(self._turn, "speech", under_bot=rules is not None, reopens=reopens),
            ForwardAudio(self._turn, self._ear.from_sample(settings.pre_roll_ms)),
        ]
        self._weigh_speech(user, now_ms)

    def _hear_speech(self, user: UserTurn, now_ms: int) -> None:
        """Speech inside a turn. Behind a silence it takes as many windows as at an onset; a single one only delays the end."""
        if user.waiting:
            if self._ear.run < user.start_windows(self._settings):
                return
            self._out.append(Resumed(user.turn, user.attempt))
            user.went_on(self._ear.pause_ms(user.speech_end))
            user.speech_windows += self._ear.run
        else:
            user.speech_windows += 1
        user.silent_windows = 0
        user.last_speech_ms, user.speech_end = now_ms, self._ear.last_sample
        self._weigh_speech(user, now_ms)

    def _try_to_end(self, user: UserTurn, now_ms: int) -> None:
        """A new attempt. It takes the silence along that is there: voiceless endings hide in it."""
        self._ear.run = 0  # where the microphone stopped in mid-speech, the run is over too
        user.attempt += 1
        user.attempt_ms, user.waiting, user.text = now_ms, True, None
        self._out.append(MayEnd(user.turn, user.attempt, self._ear.last_sample))

    def _read(self, transcript: TranscriptSeen, now_ms: int) -> None:
        user, bot = self._user, self._bot
        if user is not None and transcript.turn == user.turn:
            user.latest = transcript.text
            if transcript.final and user.waiting and transcript.attempt == user.attempt:
                user.text, user.language, user.sentence_end = transcript.text, transcript.language, transcript.sentence_end
                self._judge(user, now_ms)
            self._weigh_words(user, now_ms)
        elif transcript.final:
            for said in (bot.said, user.before if user is not None else None):
                if said is not None:
                    said.read(transcript.turn, transcript.attempt, transcript.text)
            if bot.said is not None and not bot.told and bot.said.is_void:
                bot.state = "silent"  # nothing will be answered

    # ------------------------------------------------------------------------------------------------------ is it the end

    def _judge(self, user: UserTurn, now_ms: int) -> None:
        """How likely the user has finished: by the rules, until the model says something else."""
        if user.text is None or not user.confirmed:
            return
        user.probability = how_finished(user.message, user.language, user.sentence_end)
        if self._ask_model and has_words(user.message):
            user.judged_by_ms = now_ms + JUDGE_LIMIT_MS
            self._out.append(AskEnd(user.turn, user.attempt, user.message, user.language, tuple(user.pauses_ms)))

    def _judged(self, judged: EndJudged) -> None:
        user = self._user
        if user is None or (judged.turn, judged.attempt) != (user.turn, user.attempt) or user.judged_by_ms is None:
            return
        user.judged_by_ms = None
        if judged.probability is not None:
            user.probability = judged.probability

    # ------------------------------------------------------------------------------------------------------------ the bot

    def _watch_bot(self, seen: BotStateSeen, now_ms: int) -> None:
        user, bot = self._user, self._bot
        if seen.turn < max(self._fence, bot.turn) or seen.turn > self._turn:
            return  # of a cancelled turn, or overtaken by a newer one
        if seen.state not in ("silent", "thinking", "speaking") or (user is not None and seen.turn == user.turn):
            return
        self._bot = BotTurn(seen.turn, seen.state, now_ms, bot.said if seen.turn == bot.turn else None)
        if user is None:
            return
        if seen.state == "silent":
            self._weigh_words(user, now_ms)
        elif user.confirmed:  # it was taken for silent, and now there are two voices
            self._cancel(user.turn, "user speaks", None)
        else:
            self._weigh_speech(user, now_ms)

    def _weigh_speech(self, user: UserTurn, now_ms: int) -> None:
        """Weigh the length of a turn that is not confirmed yet."""
        match barge_in.by_speech(user, self._bot.state):
            case "confirm":
                self._confirm(user, "bot finished" if self._bot.state == "silent" else "barge-in", now_ms)
            case "pause":
                user.paused_turn, user.paused_ms = self._bot.turn, now_ms
                self._out.append(PauseBot(self._bot.turn))

    def _weigh_words(self, user: UserTurn, now_ms: int) -> None:
        """Weigh the latest transcript of a turn that is not confirmed yet."""
        match barge_in.by_words(user, self._bot.state, self._backchannels):
            case "confirm":
                self._confirm(user, "bot finished" if self._bot.state == "silent" else "barge-in", now_ms)
            case "backchannel":
                user.speech_windows = 0

    def _confirm(self, user: UserTurn, reason: str, now_ms: int) -> None:
        since_ms = now_ms if user.paused_turn is None else user.paused_ms
        if self._bot.was_heard(since_ms, self._settings.reopen_within_ms):
            user.before = None  # it has been answered
        user.confirmed, user.paused_turn = True, None
        self._cancel(user.turn, reason, user.before)
        self._judge(user, now_ms)

    def _cancel(self, fence: int, reason: str, before: Said | None) -> None:
        self._bot.state = "silent"
        if fence > self._fence:
            self._fence = fence
            self._out.append(CancelBot(fence, reason, before.turn if before is not None else 0))

    # ----------------------------------------------------------------------------------------------------------- requests

    def _ask(self, request: Requested, now_ms: int) -> None:
        if request.interrupt:
            said = self._cut_short(request.source, now_ms)
            said = said if request.source == "text" else None
            self._cancel(self._turn + 1, request.source, said)
            self._begin(request, said, now_ms)
        elif len(self._requests) >= MAX_REQUESTS:
            self._out.append(RefuseRequest(request.request, f"{MAX_REQUESTS} turns are waiting already"))
        else:
            self._requests.append(request)

    def _cut_short(self, reason: str, now_ms: int) -> Said | None:
        """End the turn that is open. Returns what was said there, or is still unanswered of what was said just before."""
        user = self._user
        if user is not None and not user.confirmed and not barge_in.is_void(user):
            self._confirm(user, reason, now_ms)
        if user is not None:
            self._end(user, now_ms)
        return self._bot.gone_on_with(now_ms, self._settings.reopen_within_ms)

    def _begin(self, request: Requested, said: Said | None, now_ms: int) -> None:
        self._turn += 1
        self._bot = BotTurn(self._turn, "thinking", now_ms, told=False)
        reopens = said.turn if said is not None else 0
        self._out.append(StartTurn(self._turn, request.source, request.request, reopens=reopens))

    # --------------------------------------------------------------------------------------------------------------- time

    def _end(self, user: UserTurn, now_ms: int) -> None:
        """The turn is over: to be answered when it is confirmed, else void."""
        if not user.waiting:
            self._try_to_end(user, now_ms)
        self._out.append(EndTurn(user.turn, user.attempt, user.speech_end))
        self._user = None
        self._ear.forget(user.speech_end)
        if user.paused_turn is not None:
            self._out.append(ResumeBot(user.paused_turn))
        said = Said(user.turn, user.attempt, now_ms, user.text, user.before)
        if user.confirmed and not said.is_void:
            self._bot = BotTurn(user.turn, "thinking", now_ms, said, told=False)

    def _release(self, user: UserTurn, now_ms: int) -> None:
        """What the user said does not interrupt the bot, as far as is known."""
        if user.paused_turn is not None:
            self._out.append(ResumeBot(user.paused_turn))
        user.paused_turn, user.released_ms, user.speech_windows = None, now_ms, 0

    def _expire(self, now_ms: int) -> None:
        """Do what the time asks for."""
        if now_ms >= self._bot_deadline(self._bot):
            self._give_up(now_ms)
        user = self._user
        while user is not None and now_ms >= self._deadline(user):
            too_long = now_ms >= user.opened_ms + self._settings.max_turn_ms
            if user.confirmed or too_long:
                self._end(user, now_ms)
            elif not user.waiting:
                self._try_to_end(user, now_ms)  # the microphone fell silent; words may still confirm it
            elif user.released_ms is None and (user.text is None or count_words(user.text)):
                self._release(user, now_ms)
            else:
                self._end(user, now_ms)
            user = self._user

    def _deadline(self, user: UserTurn) -> int:
        """When something must happen to the turn if nothing is heard until then."""
        settings = self._settings
        if not user.waiting or self._ear.run > 0:  # in speech, or perhaps again: the next window will tell
            at_ms = self._ear.last_window_ms + settings.missing_audio_ms
        elif user.confirmed:
            probability = None if user.text is None else user.probability
            at_ms = user.last_speech_ms + wait_ms(probability, settings, longest_pause_ms=max(user.pauses_ms, default=0))
            at_ms = max(at_ms, user.judged_by_ms or 0)
        else:
            at_ms = barge_in.verdict_ms(user, settings)
        return min(at_ms, user.opened_ms + settings.max_turn_ms)

    @staticmethod
    def _bot_deadline(bot: BotTurn) -> float:
        if bot.state == "silent":
            return float("inf")
        return bot.since_ms + (ANSWER_LIMIT_MS if bot.told else THINKING_LIMIT_MS)

    def _give_up(self, now_ms: int) -> None:
        """The bot owes an answer for too long. To take it for silent is not enough: the others still wait for that answer, and
        would keep every later one behind it.
        """
        user = self._user
        if user is None:
            self._cancel(self._turn + 1, "no answer", None)
        else:
            self._confirm(user, "no answer", now_ms)

    def _arm(self) -> None:
        deadlines = [] if self._user is None else [self._deadline(self._user)]
        if self._bot.state != "silent":
            deadlines.append(int(self._bot_deadline(self._bot)))
        if deadlines and (self._wake_ms is None or min(deadlines) < self._wake_ms):
            self._wake_ms = min(deadlines)
            self._out.append(WakeAt(self._wake_ms))
