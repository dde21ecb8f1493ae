"""What speech under a bot that thinks or speaks comes to: it pauses the bot, and interrupts it for good, or not. Pure.

Length pauses the bot, early: a pause can be taken back. Words interrupt it, or speech that goes on and on before there are any.
Under a bot that speaks, a transcript of backchannels alone ("mhm", "yeah, okay") explains the speech so far, so that its length
counts from there anew. Once the bot has finished, any word counts: the user answers it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from rtvi_actors.speaking.backchannels import Backchannels, count_words
from rtvi_actors.speaking.floor import UserTurn

if TYPE_CHECKING:
    from rtvi_actors.config import Speaking, UnderBot

ANSWER_MS: Final = 600
"""A bot that finishes within this of a backchannel has asked for it: then it is an answer."""
LATE_WORDS_MS: Final = 5_000
"""How long words are waited for that interrupt a bot which was let go on without them. The STT stage gives up before."""


def rules_of(bot_state: str, settings: Speaking) -> UnderBot | None:
    """What an interruption takes while the bot is in ``bot_state``; None while it is silent."""
    match bot_state:
        case "thinking":
            return settings.when_thinking
        case "speaking":
            return settings.when_speaking
    return None


def by_speech(user: UserTurn, bot_state: str) -> Literal["pause", "confirm", ""]:
    """What the length of the speech so far asks for."""
    rules = user.rules
    if user.confirmed or rules is None:
        return ""
    if rules.confirm_after_ms and user.speech_ms >= rules.confirm_after_ms:
        return "confirm"
    if user.speech_ms < rules.pause_after_ms or user.paused_turn is not None or bot_state == "silent":
        return ""
    return "pause" if rules.resume_after_ms else "confirm"


def by_words(user: UserTurn, bot_state: str, backchannels: Backchannels) -> Literal["confirm", "backchannel", ""]:
    """What the latest transcript asks for."""
    rules = user.rules
    words = count_words(user.latest)
    if user.confirmed or rules is None or not words:
        return ""
    if bot_state == "silent":
        return "confirm"
    others = backchannels.other_words(user.latest) if user.over_speech else words
    if others >= rules.min_words:
        return "confirm"
    return "" if others else "backchannel"


def verdict_ms(user: UserTurn, settings: Speaking) -> int:
    """When a turn that is not confirmed, and silent, lets the bot go on, and behind that, when it comes to nothing."""
    if user.text is not None and not count_words(user.text):
        return user.attempt_ms
    if user.released_ms is not None:
        return user.attempt_ms + LATE_WORDS_MS if user.text is None else user.released_ms + ANSWER_MS
    if user.text is not None:
        return user.last_speech_ms + settings.short_wait_ms  # behind a backchannel the user may go on at once
    # Each attempt gets the whole wait.
    since_ms = user.opened_ms if user.paused_turn is None else user.paused_ms
    resume_after_ms = user.rules.resume_after_ms if user.rules is not None else 0
    return max(since_ms, user.attempt_ms) + (resume_after_ms or settings.long_wait_ms)


def is_void(user: UserTurn) -> bool:
    """Whether a turn that is not confirmed is known to be no more than a noise or a backchannel."""
    return user.waiting and user.text is not None
