"""Every frame that travels between actors: one small dataclass each, and the table that numbers them.

On the wire a frame is one msgpack array ``[kind, session, epoch, turn, attempt, seq, sent_ns, ...fields]`` (see ``codec``).
``turn`` and ``attempt`` are set by the stage that makes the frame. ``session``, ``epoch``, ``seq`` and ``sent_ns`` are stamped
by the link when it is sent, and filled in when it is received.

* ``turn``     the fence of a conversation: given by the speaking stage alone; 0 means "belongs to no turn". Receivers drop
               data of a turn below their fence; only :class:`Cancel` raises the fence.
* ``attempt``  the fence of speculation inside a turn: rises at each :class:`TurnMayEnd`, counted from 1.
* ``epoch``    the fence of a session that moved to other actors.
* ``seq``      counts per (session, epoch, sender, lane), from 0.
* ``sent_ns``  ``time.monotonic_ns()`` of the sender; from another node, the link puts the receiver's own time in its place.

The lane says which of a link's two sockets carries the frame: what invalidates overtakes (``control``), what completes does not
(``data``, in order). To add a frame: add the class, give it the next free number in ``KINDS``, say who sends it to whom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

Lane = Literal["control", "data"]
Role: TypeAlias = str
"""Who a frame goes to, seen from one session: ``edge``, ``speaking``, ``stt``, ``llm``, ``tts``, ``engine/<kind>``."""

VERSION = 2
"""Version of the frame table, compared in :class:`Hello`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every frame has. Integers are unsigned."""

    LANE: ClassVar[Lane] = "control"

    session: str = ""
    epoch: int = 0
    turn: int = 0
    attempt: int = 0
    seq: int = 0
    sent_ns: int = 0


# ---------------------------------------------------------------------------------------------------------------- links


@dataclass(frozen=True, slots=True)
class Hello(Frame):
    """First frame on each socket of a link, in both directions. ``pair`` joins the two sockets of one dialling."""

    version: int
    node: str
    pid: int
    name: str
    lane: str
    pair: str


@dataclass(frozen=True, slots=True)
class Ping(Frame):
    """Heartbeat, every 250 ms, from a thread of its own. ``loop_lag_ms`` is how late the sender's event loop runs.

    Between nodes also for the clocks: ``echo_ns`` is ``sent_ns`` of the receiver's ping that was heard last (0: none, or the same
    node), ``held_ns`` how long before this one was sent that came.
    """

    loop_lag_ms: int
    echo_ns: int = 0
    held_ns: int = 0


@dataclass(frozen=True, slots=True)
class Credit(Frame):
    """Receiver of a credited stream > its producer: ``bytes`` more may be sent. Whoever drops data grants it back too."""

    stream: str
    bytes: int


# -------------------------------------------------------------------------------------------------------------- session


@dataclass(frozen=True, slots=True)
class Attach(Frame):
    """edge > every stage: begin the session. ``route``: role -> names of the actors that play it, best first.

    ``services``: settings of this session that differ from the configuration, ``{"llm": {"max_tokens": 32}}``.
    ``body``: what the client gave at ``/start``, JSON bytes or b"". ``snapshot``: b"" for a new session, else what another group
    knew of it, see ``frames/snapshot``.
    """

    route: dict[str, list[str]]
    bot: str
    services: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    snapshot: bytes = b""


@dataclass(frozen=True, slots=True)
class Attached(Frame):
    """stage > edge: the session's part of ``role`` is open."""

    role: str


@dataclass(frozen=True, slots=True)
class Refused(Frame):
    """stage > edge: it is not, and why."""

    role: str
    reason: str


@dataclass(frozen=True, slots=True)
class Detach(Frame):
    """edge > stage: end the session. stage > edge, in answer: its part is closed and holds nothing any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Error(Frame):
    """any > edge. ``scope`` as in ``errors``; a turn's error is told to the client as not fatal."""

    scope: str
    retryable: bool
    text: str


@dataclass(frozen=True, slots=True)
class Metrics(Frame):
    """any > edge: one figure of a turn. ``segment``: stt, llm, tts.

    ``name``: ``ttfb_ms``, ``processing_ms``, ``compute_ms`` (the engine's own work up to the output that the turn's latency
    waits for: stt the final, llm the first clause, tts the first audio), ``prompt_tokens``, ``completion_tokens``,
    ``characters``.
    """

    segment: str
    name: str
    value: float


# ----------------------------------------------------------------------------------------------------------------- turn


@dataclass(frozen=True, slots=True)
class Audio(Frame):
    """edge > speaking > stt: PCM16 LE, 16 kHz, mono. ``first_sample`` counts from the start of the session.

    edge > speaking sends pieces of 512 samples. speaking > stt sends, with ``turn`` set, what belongs to a turn, pre-roll first.
    """

    LANE: ClassVar[Lane] = "data"
    first_sample: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class TurnRequest(Frame):
    """any > speaking: ask for a turn that is not opened by speech. ``source``: text, say, tool.

    ``interrupt``: cancel what the bot says; otherwise wait until it is silent.
    """

    request: str
    source: str
    interrupt: bool


@dataclass(frozen=True, slots=True)
class TurnStarted(Frame):
    """speaking > all: ``turn`` begins. ``source``: speech, text, say, tool. ``request``: that of the TurnRequest, or "".

    ``under_bot``: it was opened by speech while the bot was thinking or speaking, and is not confirmed before its Cancel.
    ``reopens``: the user seems to go on with this turn, which had ended too early; 0 for none. The Cancel says whether it is so.
    """

    request: str
    source: str
    under_bot: bool = False
    reopens: int = 0


@dataclass(frozen=True, slots=True)
class TurnMayEnd(Frame):
    """speaking > stt, behind the audio: decode the turn's audio up to ``last_sample`` (exclusive) as the final of ``attempt``.

    speaking > edge: the user is silent, and the turn goes on.
    """

    LANE: ClassVar[Lane] = "data"
    last_sample: int


@dataclass(frozen=True, slots=True)
class SpeechResumed(Frame):
    """speaking > stt, llm, tts, edge: all attempts up to ``attempt`` of ``turn`` are void."""


@dataclass(frozen=True, slots=True)
class TurnEnded(Frame):
    """speaking > stt, llm, edge: the user's part of ``turn`` is over, with ``attempt``; speech ended at ``last_sample``."""

    last_sample: int


@dataclass(frozen=True, slots=True)
class Transcript(Frame):
    """stt > speaking, llm, edge. Exactly one with ``final`` for each attempt that was not resumed over; "" is allowed."""

    LANE: ClassVar[Lane] = "data"
    text: str
    final: bool
    language: str
    sentence_end: float = -1.0
    """How likely the speech model takes the sentence to end here, 0 to 1; -1 where it does not tell."""


@dataclass(frozen=True, slots=True)
class Pause(Frame):
    """speaking > edge, llm, tts, stt: hold the bot's ``turn``: keep queue and position, send nothing."""


@dataclass(frozen=True, slots=True)
class Resume(Frame):
    """speaking > edge, llm, tts, stt: go on with the paused ``turn`` where it stopped."""


@dataclass(frozen=True, slots=True)
class Cancel(Frame):
    """speaking > edge, llm, tts, stt: everything of turns below ``fence`` is void, for good, but for the words of the user's that
    have ended. ``reopens``: the user goes on with this turn in turn ``fence``, and the words of both are one message; 0 for none.
    """

    fence: int
    reason: str
    reopens: int = 0


# ------------------------------------------------------------------------------------------------------------------ bot


@dataclass(frozen=True, slots=True)
class LlmStarted(Frame):
    """llm > edge: an answer begins. ``user_text``: the user's message as the model gets it; "" for a turn of source say."""

    LANE: ClassVar[Lane] = "data"
    user_text: str


@dataclass(frozen=True, slots=True)
class LlmText(Frame):
    """llm > edge: a piece of the answer, white space kept."""

    LANE: ClassVar[Lane] = "data"
    text: str


@dataclass(frozen=True, slots=True)
class LlmEnded(Frame):
    """llm > edge, tts: the answer is complete and has ``clauses`` clauses. ``reason``: stop, length, error, say."""

    LANE: ClassVar[Lane] = "data"
    clauses: int
    reason: str


@dataclass(frozen=True, slots=True)
class Clause(Frame):
    """llm > tts, edge: clause number ``clause`` (from 0) of the answer. ``spoken``: False when no audio will be made.

    The clauses of a turn, joined, are the answer's text, white space included.
    """

    LANE: ClassVar[Lane] = "data"
    clause: int
    text: str
    spoken: bool = True


@dataclass(frozen=True, slots=True)
class BotAudio(Frame):
    """tts > edge: PCM16 LE, 24 kHz, mono, 40 ms. ``first_sample`` counts from the start of the clause. Credited stream."""

    LANE: ClassVar[Lane] = "data"
    clause: int
    first_sample: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Marks(Frame):
    """tts > edge, before the clause's audio: ``[[sample, char], ...]``, both rising. With ``sample`` samples, all characters of the
    clause before ``char`` are said.
    """

    LANE: ClassVar[Lane] = "data"
    clause: int
    marks: list[Any]


@dataclass(frozen=True, slots=True)
class AudioEnded(Frame):
    """tts > edge: the clause's audio is complete and has ``samples`` samples."""

    LANE: ClassVar[Lane] = "data"
    clause: int
    samples: int


@dataclass(frozen=True, slots=True)
class BotState(Frame):
    """edge > speaking, llm: what the bot does with ``turn``, judged by what the edge sends: silent, thinking, speaking."""

    state: str


@dataclass(frozen=True, slots=True)
class Played(Frame):
    """edge > speaking, llm: of ``turn`` the user heard all clauses before ``clause``, and ``char`` characters of that one.

    ``final``: nothing more of this turn will be heard.
    """

    clause: int
    char: int
    final: bool


# --------------------------------------------------------------------------------------------------------------- client


@dataclass(frozen=True, slots=True)
class ClientText(Frame):
    """edge > llm: typed text. With ``run`` it is answered in the turn that the TurnRequest of the same ``request`` gets;
    without, it is only added to the context. ``audio``: whether the answer is spoken.
    """

    request: str
    text: str
    run: bool
    audio: bool


@dataclass(frozen=True, slots=True)
class ClientMessage(Frame):
    """edge > the stage concerned: an RTVI message as it came. ``data``: JSON bytes."""

    id: str
    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SessionEnd(Frame):
    """llm > edge: the application ends the session, once ``turn``, the newest that the bot has answered, is over. ``reason``: for
    people, or "".
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Remembered(Frame):
    """llm > edge: the conversation as it is remembered now, see ``frames/snapshot``. After each change, once it is known what of an
    answer was heard.
    """

    LANE: ClassVar[Lane] = "data"
    conversation: bytes


@dataclass(frozen=True, slots=True)
class Moved(Frame):
    """edge > llm: the session goes on at another actor. The Detach that follows is not its end."""


@dataclass(frozen=True, slots=True)
class ServiceUpdate(Frame):
    """edge > the stage concerned: new settings of ``service``."""

    service: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall(Frame):
    """llm > edge: a tool of the client's is called. ``arguments``: JSON bytes."""

    LANE: ClassVar[Lane] = "data"
    id: str
    name: str
    arguments: bytes


@dataclass(frozen=True, slots=True)
class ToolResult(Frame):
    """edge > llm: its result, JSON bytes."""

    LANE: ClassVar[Lane] = "data"
    id: str
    name: str
    result: bytes


# --------------------------------------------------------------------------------------------------------------- engine


@dataclass(frozen=True, slots=True)
class EngineRequest(Frame):
    """stage > engine. ``payload``: the room's request (``stt.engine.SttRequest`` ...), msgpack. ``request`` is unique in a
    session and role.
    """

    LANE: ClassVar[Lane] = "data"
    request: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class EngineCancel(Frame):
    """stage > engine: the answer to ``request`` is not wanted any more. No EngineEnd follows that anybody waits for."""

    request: int


@dataclass(frozen=True, slots=True)
class EngineData(Frame):
    """engine > stage: one piece of the answer. ``compute_ns``: the engine's work on this request so far."""

    LANE: ClassVar[Lane] = "data"
    request: int
    payload: bytes
    compute_ns: int


@dataclass(frozen=True, slots=True)
class EngineEnd(Frame):
    """engine > stage: the answer is complete. ``error``: "" or what went wrong. ``queue_ns``: how long it waited first."""

    LANE: ClassVar[Lane] = "data"
    request: int
    compute_ns: int
    queue_ns: int
    error: str
    retryable: bool


KINDS: dict[int, type[Frame]] = {
    1: Hello,
    2: Ping,
    3: Credit,
    10: Attach,
    11: Attached,
    12: Refused,
    13: Detach,
    14: Error,
    15: Metrics,
    20: Audio,
    21: TurnRequest,
    22: TurnStarted,
    23: TurnMayEnd,
    24: SpeechResumed,
    25: TurnEnded,
    26: Transcript,
    27: Pause,
    28: Resume,
    29: Cancel,
    40: LlmStarted,
    41: LlmText,
    42: LlmEnded,
    43: Clause,
    44: BotAudio,
    45: Marks,
    46: AudioEnded,
    47: BotState,
    48: Played,
    60: ClientText,
    61: ClientMessage,
    62: ServiceUpdate,
    63: ToolCall,
    64: ToolResult,
    65: SessionEnd,
    66: Remembered,
    67: Moved,
    80: EngineRequest,
    81: EngineCancel,
    82: EngineData,
    83: EngineEnd,
}
"""Number on the wire -> frame. Numbers are never reused."""
