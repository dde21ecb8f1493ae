"""The conversation as RTVI messages: one translator for each concern that RTVI knows.

============================ =========================================================================================
:class:`SpeakingState`       user-started/stopped-speaking, bot-started/stopped-speaking, bot-interrupted
:class:`UserTranscription`   user-input, user-transcription, user-llm-text
:class:`BotTranscription`    bot-transcription: the answer, sentence by sentence
:class:`BotLlm`              bot-llm-started/text/stopped
:class:`BotTts`              bot-tts-started/text/stopped
:class:`.output.BotOutput`   bot-output, from the events that say what was said and how far it was spoken
============================ =========================================================================================

The events come in order and committed (``events``), so none of them looks at another's state. :class:`Translator` runs all of them
over each event; their order there is the order of messages that one event makes.
"""

from __future__ import annotations

import re

from rtvi_actors.rtvi.events import (
    AnswerEnded,
    AnswerStarted,
    AnswerText,
    BotStarted,
    BotStopped,
    ClauseSpoken,
    Event,
    Failure,
    Interrupted,
    TtsStarted,
    TtsStopped,
    TurnFigures,
    UserStarted,
    UserStopped,
    UserText,
    UserTyped,
    WordsSpoken,
)
from rtvi_actors.rtvi.figures import metrics
from rtvi_actors.rtvi.handshake import UNKNOWN, Version, is_legacy
from rtvi_actors.rtvi.messages import Message, error
from rtvi_actors.rtvi.output import BotOutput

_SENTENCE_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*(?=\\s)|[\u3002\uff01\uff1f]")


class SpeakingState:
    """Who speaks."""

    def __init__(self) -> None:
        self.legacy = False

    def handle(self, event: Event) -> list[Message]:
        """The messages of ``event``."""
        match event:
            case UserStarted():
                return [Message("user-started-speaking")]
            case UserStopped():
                return [Message("user-stopped-speaking")]
            case BotStarted():
                return [Message("bot-started-speaking")]
            case BotStopped():
                return [Message("bot-stopped-speaking")]
            case Interrupted() if not self.legacy:
                return [Message("bot-interrupted")]
        return []


class UserTranscription:
    """What the user said or typed, and what of it the model was given."""

    def handle(self, event: Event, timestamp: str) -> list[Message]:
        """The messages of ``event``."""
        match event:
            case UserText(text=text, final=final):
                said = {"text": text, "input_type": "transcription", "timestamp": timestamp, "final": final}
                twin = {"text": text, "user_id": "", "timestamp": timestamp, "final": final}
                return [Message("user-input", said), Message("user-transcription", twin)]
            case UserTyped(text=text, message_id=message_id):
                typed = {"text": text, "input_type": "chat", "timestamp": timestamp, "final": True, "msg_id": message_id}
                return [Message("user-input", typed)]
            case AnswerStarted(said=False, user_text=text):
                return [Message("user-llm-text", {"text": text})]
        return []


class BotTranscription:
    """The model's answer, sentence by sentence. A sentence is told when the next one begins, or with the end of the answer."""

    def __init__(self) -> None:
        self._untold = ""

    def handle(self, event: Event) -> list[Message]:
        """The messages of ``event``."""
        match event:
            case AnswerStarted() | Interrupted():
                # What is left of an interrupted answer is no sentence.
                self._untold = ""
            case AnswerText(text=text):
                sentences = self._complete(text)
                self._untold += text
                return sentences
            case AnswerEnded():
                rest, self._untold = self._untold, ""
                return _sentence(rest)
        return []

    def _complete(self, following: str) -> list[Message]:
        """The sentences that ended before ``following``. Only what follows a full stop tells whether it was one."""
        messages = []
        told = 0
        for end in _SENTENCE_END.finditer(self._untold + following):
            if end.end() > len(self._untold):
                break
            messages += _sentence(self._untold[told : end.end()])
            told = end.end()
        self._untold = self._untold[told:]
        return messages


def _sentence(text: str) -> list[Message]:
    return [Message("bot-transcription", {"text": text.strip()})] if text.strip() else []


class BotLlm:
    """The model's answer as it streams. A text that the application says itself comes from no model."""

    def __init__(self) -> None:
        self._open = False

    def handle(self, event: Event) -> list[Message]:
        """The messages of ``event``."""
        match event:
            case AnswerStarted(said=False):
                self._open = True
                return [Message("bot-llm-started")]
            case AnswerText(text=text) if self._open:
                return [Message("bot-llm-text", {"text": text})]
            case AnswerEnded() if self._open:
                self._open = False
                return [Message("bot-llm-stopped")]
        return []


class BotTts:
    """The voice: one pair of started and stopped per turn, and each word when it was spoken; or each clause, without word times."""

    def handle(self, event: Event) -> list[Message]:
        """The messages of ``event``."""
        match event:
            case TtsStarted():
                return [Message("bot-tts-started")]
            case WordsSpoken():
                return _words(event.text[event.start : event.end])
            case ClauseSpoken(start=0, text=text) if text.strip():
                return [Message("bot-tts-text", {"text": text.strip()})]
            case ClauseSpoken():
                return _words(event.text[event.start :])
            case TtsStopped():
                return [Message("bot-tts-stopped")]
        return []


def _words(text: str) -> list[Message]:
    return [Message("bot-tts-text", {"text": word}) for word in text.split()]


class Translator:
    """Translates one session's events. ``client_version`` is set at client-ready."""

    def __init__(self, client_version: Version = UNKNOWN) -> None:
        self._speaking_state = SpeakingState()
        self._user_transcription = UserTranscription()
        self._bot_transcription = BotTranscription()
        self._bot_llm = BotLlm()
        self._bot_output = BotOutput()
        self._bot_tts = BotTts()
        self.client_version = client_version

    @property
    def client_version(self) -> Version:
        """(0, 0, 0) before client-ready; then treated like 2.x."""
        return self._client_version

    @client_version.setter
    def client_version(self, version: Version) -> None:
        self._client_version = version
        self._speaking_state.legacy = self._bot_output.legacy = is_legacy(version)

    def handle(self, event: Event, timestamp: str) -> list[Message]:
        """The messages of ``event``, in order. ``timestamp``: ISO 8601, UTC, milliseconds, ``+00:00``."""
        match event:
            case TurnFigures():
                return metrics(event)
            case Failure(text=text, fatal=fatal):
                return [error(text, fatal=fatal)]
        return [
            *self._speaking_state.handle(event),
            *self._user_transcription.handle(event, timestamp),
            # A sentence is told before the chunk that begins the next one, and before bot-llm-stopped.
            *self._bot_transcription.handle(event),
            *self._bot_llm.handle(event),
            *self._bot_output.handle(event),
            *self._bot_tts.handle(event),
        ]
