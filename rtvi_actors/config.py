"""The configuration: typed, frozen, from one TOML file. The environment is read here and nowhere else.

``Config()`` is the laptop profile; ``clusters/laptop.toml`` writes it out. A file needs only what it changes::

    config = Config.load("clusters/dense.toml")

Each section is a struct; the string below a field says what it means. Units are in the names.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct, field

from rtvi_actors.errors import ConfigError

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections."""


class App(Section, frozen=True):
    """The app as a whole."""

    name: Name = "rtvi_actors"
    """Name of the app: first part of every actor's name, and the Ray namespace."""
    log_level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    """What is logged, on stderr: this and what is graver."""
    log_format: Annotated[str, Meta(pattern="^(console|json)$")] = "console"
    """``console``: key=value lines; ``json``: one JSON object a line. Both on stderr."""


class Bot(Section, frozen=True):
    """What the sessions talk to."""

    class_: str = field(name="class", default="rtvi_actors.bot:Bot")
    """The application's bot, ``module:Class``."""
    instructions: str = ""
    """System prompt; "" takes the bot's own."""


class Edge(Section, frozen=True):
    """Where clients connect, and what they may do."""

    host: str = "127.0.0.1"
    """Address to listen on. There is no authentication: other than the loopback only where strangers cannot come."""
    port: Port = 7860
    """0 takes a free one."""
    lead_ms: Annotated[int, Meta(ge=20, le=400)] = 80
    """How far ahead of real time bot audio is sent: a client cannot be told to discard what it has."""
    max_message_bytes: Annotated[int, Meta(ge=4_096, le=16_777_216)] = 1_200_000
    """Largest WebSocket message. The JavaScript client sends up to 1 MiB of JSON."""
    max_json_depth: Annotated[int, Meta(ge=4, le=200)] = 32
    """How deeply a client's JSON may be nested."""
    max_messages_per_s: Annotated[int, Meta(ge=100)] = 500
    """Above it, messages of a session are dropped and counted, and an error says so once a second."""
    send_buffer_bytes: Annotated[int, Meta(ge=65_536)] = 2_097_152
    """A client that reads so slowly that more than this waits for it is disconnected."""
    eval_messages: bool = False
    """Obey the messages of Pipecat's evaluation harness, which rewrite the context and silence the bot: for tests only."""
    ping_interval_ms: Positive = 20_000
    """A client that does not answer a WebSocket ping within this is gone; another one is sent as often."""
    console: bool = True
    """Serve the web page at ``/``, and ``/api/status``, which shows it sessions and engines."""
    require_start: bool = False
    """Let in only clients that come from ``POST /start``."""
    public_url: Annotated[str, Meta(pattern=r"^(https?://[^\s/?#]+(/[^\s?#]*)?)?$")] = ""
    """Where clients reach this edge, if a proxy is in front of it: ``https://voice.example.org/bot``. It may bring a
    client that started at one edge to any other."""
    trust_forwarded: bool = False
    """Without ``public_url``: believe X-Forwarded-Proto and X-Forwarded-Host. Only behind a proxy that sets both."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels that nodes of edges must have, of Ray: where clients, or a load balancer, can reach them."""


class Session(Section, frozen=True):
    """When a conversation ends by itself. Silence is counted while nobody speaks, thinks or is waited for."""

    idle_prompt: str = ""
    """What the bot says to a silent user; "" is nothing."""
    idle_prompt_after_ms: Positive = 30_000
    """Silence before it is said, and before it is said again."""
    idle_prompts: Positive = 1
    """How often in a row it is said."""
    idle_end_after_ms: NotNegative = 300_000
    """Silence that ends the session, the prompts in between not counted; 0 is never."""
    max_session_ms: NotNegative = 7_200_000
    """Longest session; 0 is no limit."""
    warning_ms: NotNegative = 60_000
    """How long before that the client is told."""
    finish_ms: NotNegative = 30_000
    """How long the bot may go on with what it is saying when the session is to end."""


class UnderBot(Section, frozen=True):
    """What the user must do to interrupt the bot. It pauses first; the interruption is taken back where no words follow."""

    start_windows: Positive
    """Speech windows in a row that open a turn."""
    pause_after_ms: Positive
    """Speech that pauses the bot."""
    min_words: Positive
    """Words that interrupt it for good. Backchannels do not count under a bot that speaks."""
    confirm_after_ms: NotNegative
    """Speech that interrupts it for good before there are any words; 0: only words do."""
    resume_after_ms: NotNegative
    """A paused bot goes on when no words came within this. 0: interruptions are never taken back, and what would pause the bot
    interrupts it for good."""


class WhenThinking(UnderBot, frozen=True):
    """Speech while the bot has said nothing yet: mostly the user goes on."""

    start_windows: Positive = 2
    pause_after_ms: Positive = 96
    min_words: Positive = 1
    confirm_after_ms: NotNegative = 600
    resume_after_ms: NotNegative = 2_000


class WhenSpeaking(UnderBot, frozen=True):
    """Speech while the bot speaks: an interruption, a cough, or a backchannel."""

    start_windows: Positive = 2
    pause_after_ms: Positive = 64
    min_words: Positive = 1
    confirm_after_ms: NotNegative = 1_000
    resume_after_ms: NotNegative = 2_000


BACKCHANNELS = (
    "mhm",
    "mm-hmm",
    "mm",
    "hm",
    "uh-huh",
    "uh",
    "um",
    "ah",
    "aha",
    "oh",
    "yeah",
    "yep",
    "yes",
    "ok",
    "okay",
    "right",
    "all right",
    "alright",
    "sure",
    "i see",
    "got it",
    "of course",
    "exactly",
    "really",
    "wow",
    "good",
    "great",
    "nice",
    "cool",
    "fine",
)
"""What listeners say while another one speaks (English)."""


class Speaking(Section, frozen=True):
    """Who speaks: voice activity, endpointing, barge-in."""

    vad_threshold: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    """Speech probability from which a window of 32 ms counts as speech ..."""
    vad_release: Annotated[float, Meta(gt=0, lt=1)] = 0.35
    """... and below which it stops to."""
    start_windows: Positive = 2
    """Speech windows in a row that open a turn while the bot is silent."""
    silence_windows: Positive = 3
    """Silent windows in a row after which the final is decoded speculatively (TurnMayEnd)."""
    pre_roll_ms: NotNegative = 300
    """Audio from before the first speech that still belongs to the turn."""
    endpointing: str = "rules"
    """Who says how likely the user has finished: ``rules``, or a model of yours, ``module:Class`` (``speaking/end_of_turn.py``)."""
    short_wait_ms: Positive = 200
    """Endpointing: silence that ends the turn when its transcript reads as finished ..."""
    middle_wait_ms: Positive = 600
    """... when it may be finished or not ..."""
    long_wait_ms: Positive = 800
    """... and when it is not, or there is none yet."""
    reopen_within_ms: NotNegative = 1_000
    """Who goes on within this of the end of the turn, with the bot not heard yet, says one message; 0: never."""
    when_thinking: WhenThinking = field(default_factory=WhenThinking)
    when_speaking: WhenSpeaking = field(default_factory=WhenSpeaking)
    backchannels: list[str] = field(default_factory=lambda: list(BACKCHANNELS))
    """Words and phrases that do not interrupt a bot that speaks; none: all do. While it is silent they are answers like any
    other."""
    missing_audio_ms: Positive = 1_500
    """A microphone that delivers nothing for this long in mid-speech ends the turn."""
    max_turn_ms: Positive = 120_000
    """Longest speech of one turn; longer ones are ended here."""


class Engine(Section, frozen=True):
    """What all engines have."""

    replicas: Annotated[int, Meta(ge=1, le=64)] = 1
    """Engines of a kind, each with the model in a process of its own. Sessions are spread over them. Where one dies, what it has
    not begun to answer is asked of another."""
    max_replicas: Annotated[int, Meta(ge=0, le=64)] = 0
    """More replicas than ``replicas``, up to so many, while requests wait for their model; 0: never. Only sessions that begin use
    a new one."""
    threads: Positive = 1
    """Threads of the model in one replica."""
    num_gpus: Annotated[float, Meta(ge=0)] = 0.0
    """GPU share of one replica; 0 runs it on the CPU."""
    gpu_memory_gb: Annotated[float, Meta(ge=0)] = 0.0
    """GPU memory that one replica takes at most, in GB (10^9 bytes): a device is filled up to 90 %. An engine that takes more is
    ended. 0: not declared, only the share counts."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels that its node must have, of Ray: ``ray start --labels``."""
    preferred_labels: list[dict[str, str]] = field(default_factory=list)
    """Labels that are tried first, in this order, and done without where no such node has room."""
    max_batch: Positive = 4
    """Requests in one run of the model."""
    timeout_ms: Positive = 10_000
    """Longest wait for the first piece of an answer."""


class Stt(Engine, frozen=True):
    """Speech to text."""

    backend: str = "faster-whisper"
    """``faster-whisper`` or ``module:Class``."""
    model: str = "whisper-tiny.en"
    """A name of ``rtvi-actors models list``, or a folder."""
    language: Annotated[str, Meta(pattern=r"^(auto|[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)$")] = "en"
    """What is spoken, as BCP 47 (``en``, ``pt-BR``), or ``auto``: detected anew for each turn. Not every model knows others."""
    beam: Positive = 1
    """Transcripts that are weighed against each other; 1 takes the likeliest token each time."""
    final_deadline_ms: Positive = 3_000
    """A final that is not there by then is given as ""; the turn goes on."""
    short_window: bool = True
    """Decode utterances up to 9.5 s in a window of 10 s instead of 30 s: three times faster."""
    interim_ms: NotNegative = 500
    """Least time from one interim transcript to the next while the user talks; more where the model is slow. 0: none."""


class Llm(Engine, frozen=True):
    """The language model."""

    backend: str = "openvino"
    """``openvino`` (CPU only), ``transformers`` (also on a GPU), ``ctranslate2``, ``openai`` (any endpoint that speaks OpenAI's
    chat completions) or ``module:Class``."""
    model: str = "smollm2-135m-instruct"
    """A name of ``rtvi-actors models list``, or a folder; for ``openai``, the endpoint's own name of it."""
    base_url: str = ""
    """``openai``: what comes before ``/chat/completions``, for instance ``https://api.openai.com/v1``."""
    api_key_env: str = "OPENAI_API_KEY"
    """``openai``: the environment variable that holds the key, where the engine runs. Unset: requests carry no key."""
    connect_timeout_ms: Positive = 2_000
    """``openai``: longest wait for a connection. Like the other waits before the first text, it is part of ``timeout_ms``."""
    idle_timeout_ms: Positive = 10_000
    """Longest wait for a further piece of an answer."""
    spoken_error: Annotated[str, Meta(max_length=400)] = ""
    """What the bot says when an answer failed before any of it was said; "": nothing."""
    max_batch: Positive = 8
    """Answers that are written together."""
    max_tokens: Annotated[int, Meta(ge=1, le=4_096)] = 64
    """Longest answer."""
    context_tokens: Annotated[int, Meta(ge=64)] = 768
    """Longest prompt; older turns are left out beyond it, never the instructions. For ``openai`` it is estimated."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    """0 decodes greedily."""
    repetition_penalty: Annotated[float, Meta(ge=1, le=2)] = 1.2
    """Above 1, tokens that an answer has already are less likely. Small models repeat themselves without it. Not sent to
    ``openai``; ``openvino`` takes off what comes near it."""
    speculate: bool = True
    """Start on the transcript before the turn is committed. Nothing is audible or remembered before the commit."""


class Tts(Engine, frozen=True):
    """The voice."""

    backend: str = "coqui"
    """``coqui``, ``hibari`` or ``module:Class``."""
    model: str = "vits-joe"
    """A name of ``rtvi-actors models list``, or a folder. ``hibari`` has one: ``hibari-heart``."""
    threads: Positive = 1
    max_batch: Annotated[int, Meta(ge=1, le=1)] = 1
    """A voice speaks one piece at a time; the clauses of all sessions take turns."""
    piece_ms: Annotated[int, Meta(ge=40, le=2_000)] = 370
    """Audio per vocoder step."""


class Scheduler(Section, frozen=True):
    """How many sessions, and in how many processes."""

    sessions_per_group: Positive = 1
    """1: every session has its own four actors, used once. More: sessions share them."""
    warm_groups: Positive = 2
    """Stage groups kept ready."""
    max_groups: NotNegative = 0
    """Shared groups: more than ``warm_groups``, up to so many, while most places are taken; 0: never."""
    max_sessions: Positive = 4
    """Sessions at a time; further clients are refused."""
    edges: NotNegative = 1
    """Edges; those of one host listen on ports one behind the other. 0: one on each node, also on those that join later."""
    attach_deadline_ms: Positive = 5_000
    """Longest wait until the four stages of a new session are open; then its client is refused."""
    starts_at_once: Positive = 2
    """Actors started at a time on a node."""
    drain_timeout_s: NotNegative = 0
    """SIGTERM drains the app: nobody is admitted, and for so long sessions may go on. Who is left is told 10 s before. 0: they end
    at once. Ctrl-C and a second signal never wait."""
    refill_wait_ms: NotNegative = 10_000
    """The warm pool is refilled between turns; this is the longest it waits for quiet."""


class Cluster(Section, frozen=True):
    """Links between nodes. None of it matters on one machine, where links are Unix sockets."""

    link_ports: Annotated[str, Meta(pattern=r"^(|\d{1,5}-\d{1,5})$")] = ""
    """TCP ports for links on each node, ``first-last``, for a firewall to let through between nodes; "" takes any free ones. A
    stage group takes four, an engine or an edge one."""
    tls_cert: str = ""
    """PEM file with the certificate of a node, on each node, for TLS on links; with ``tls_key`` and ``tls_ca``. "" for none."""
    tls_key: str = ""
    """PEM file with its key."""
    tls_ca: str = ""
    """PEM file with the authority that signed the certificates of all nodes."""

    def ports(self) -> range:
        """The ports to try, in this order; 0 is any."""
        first, _, last = self.link_ports.partition("-")
        return range(int(first), int(last) + 1) if last else range(1)


class Observe(Section, frozen=True):
    """What is told about a running app. Logs are in ``app``."""

    metrics: bool = True
    """Serve Prometheus metrics at ``/metrics`` of each edge."""
    lag_ms: Annotated[int, Meta(ge=20, le=60_000)] = 100
    """An event loop that stands still for longer is logged, with the stack that held it up."""
    tracing: Annotated[str, Meta(pattern="^(|console|otlp)$")] = ""
    """OpenTelemetry spans of sessions and turns: ``otlp`` (OTLP over HTTP), ``console`` (stderr), "" for none."""
    otlp_endpoint: str = ""
    """Where ``otlp`` sends them, e.g. ``http://localhost:4318/v1/traces``; "" takes OpenTelemetry's own environment."""
    trace_text: bool = False
    """Put what was said into the spans."""


class Config(Section, frozen=True):
    """The whole configuration. Build one with ``Config()``, :meth:`load` or :meth:`from_dict`."""

    app: App = field(default_factory=App)
    bot: Bot = field(default_factory=Bot)
    bots: dict[Name, str] = field(default_factory=dict)
    """Further bots, by the names under which clients may ask for them at ``POST /start``: name -> ``module:Class``."""
    edge: Edge = field(default_factory=Edge)
    session: Session = field(default_factory=Session)
    speaking: Speaking = field(default_factory=Speaking)
    stt: Stt = field(default_factory=Stt)
    llm: Llm = field(default_factory=Llm)
    tts: Tts = field(default_factory=Tts)
    scheduler: Scheduler = field(default_factory=Scheduler)
    cluster: Cluster = field(default_factory=Cluster)
    observe: Observe = field(default_factory=Observe)
    models_dir: str = ""
    """Where prepared models lie; "" takes RTVI_ACTORS_MODELS, else the user's cache folder."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """Read a TOML file.

        Raises:
            ConfigError: no such file, not TOML, or an unknown or wrong key; names the file and the key.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
        return cls.from_dict(data, source=str(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "configuration") -> Config:
        """Check ``data`` (as TOML gives it) and build a Config.

        Raises:
            ConfigError: an unknown or wrong key: the key, its value and what is allowed.
        """
        try:
            config = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {_explain(data, str(error))}") from None
        _check_together(config, source)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The inverse of :meth:`from_dict`: what crosses to the actors."""
        result = msgspec.to_builtins(self)
        assert isinstance(result, dict)
        return result

    def replace(self, **sections: dict[str, Any]) -> Config:
        """A copy with single keys changed: ``config.replace(edge={"port": 0})``."""
        data = self.to_dict()
        for section, values in sections.items():
            data[section] = {**data.get(section, {}), **values}
        return self.from_dict(data)

    def models_path(self) -> Path:
        """The folder of prepared models, absolute. It need not exist."""
        chosen = self.models_dir or os.environ.get("RTVI_ACTORS_MODELS", "")
        if chosen:
            return Path(chosen).expanduser().resolve()
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(cache).expanduser().resolve() / "rtvi_actors" / "models"

    def llm_api_key(self) -> str:
        """The key for the language model's endpoint; "" if the variable ``llm.api_key_env`` is not set. Never log it.

        Raises:
            ConfigError: it has characters that a header cannot carry; names the variable only.
        """
        name = self.llm.api_key_env
        key = os.environ.get(name, "").strip() if name else ""
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the environment variable {name} (llm.api_key_env) holds characters that no key has")
        return key


def runtime_folder() -> Path:
    """A new folder for Unix sockets, mode 0700. Short, since a socket's path may have 107 bytes only."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = bool(base) and len(base) < 40 and os.access(base, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="rtvi-", dir=base if usable else "/tmp"))


def _explain(data: dict[str, Any], message: str) -> str:
    """Msgspec's message, with the value and, for an unknown key, the keys that there are."""
    problem, _, where = message.partition(" - at `$")
    path = [part for part in where.rstrip("`").replace("[...]", "").split(".") if part]
    value: Any = data
    section: type[Any] = Config
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
        for info in msgspec.structs.fields(section):
            if info.encode_name == part and isinstance(info.type, type) and issubclass(info.type, Section):
                section = info.type
    if "unknown field" in problem:
        key = problem.split("`")[1]
        given = value.get(key) if isinstance(value, dict) else None
        if re.search(r"key|secret|password|^token$", key, re.IGNORECASE):
            given = "(not shown)"  # somebody's secret in the wrong place: errors are logged
        allowed = ", ".join(info.encode_name for info in msgspec.structs.fields(section))
        return f"unknown key {'.'.join([*path, key])} = {given!r}; allowed here: {allowed}"
    return f"{'.'.join(path) or 'the file'} = {value!r}: {problem}"


def _check_together(config: Config, source: str) -> None:
    """Rules between keys; each text repeats both values."""
    speaking, scheduler = config.speaking, config.scheduler
    waits = ("short_wait_ms", "middle_wait_ms", "long_wait_ms")
    for shorter, longer in pairwise(waits):
        if getattr(speaking, shorter) > getattr(speaking, longer):
            raise ConfigError(
                f"{source}: speaking.{shorter} = {getattr(speaking, shorter)} must not exceed "
                f"speaking.{longer} = {getattr(speaking, longer)}"
            )
    if speaking.endpointing != "rules" and not all(speaking.endpointing.partition(":")):
        raise ConfigError(f"{source}: speaking.endpointing = {speaking.endpointing!r}: must be rules or module:Class")
    if speaking.vad_release > speaking.vad_threshold:
        raise ConfigError(
            f"{source}: speaking.vad_release = {speaking.vad_release} must not exceed "
            f"speaking.vad_threshold = {speaking.vad_threshold}"
        )
    _check_endpoint(config.llm, source)
    _check_cluster(config.cluster, source)
    places = scheduler.sessions_per_group * max(scheduler.warm_groups, scheduler.max_groups)
    if scheduler.sessions_per_group > 1 and places < scheduler.max_sessions:
        raise ConfigError(
            f"{source}: scheduler.max_sessions = {scheduler.max_sessions} is more than the places that there may be: "
            f"sessions_per_group x the larger one of warm_groups and max_groups = {places}"
        )
    for kind in ("stt", "llm", "tts"):
        engine: Engine = getattr(config, kind)
        if 0 < engine.max_replicas < engine.replicas:
            raise ConfigError(
                f"{source}: {kind}.max_replicas = {engine.max_replicas} must be 0, or {kind}.replicas = {engine.replicas} or more"
            )


def _check_cluster(cluster: Cluster, source: str) -> None:
    ports = cluster.ports()
    if not ports or ports[-1] > 65_535 or (cluster.link_ports and not ports[0]):
        raise ConfigError(f"{source}: cluster.link_ports = {cluster.link_ports!r}: must be first-last, from 1 to 65535")
    files = {key: getattr(cluster, key) for key in ("tls_cert", "tls_key", "tls_ca")}
    if any(files.values()) and not all(files.values()):
        missing = ", ".join(f"cluster.{key}" for key, path in files.items() if not path)
        raise ConfigError(f"{source}: TLS on links needs all three files; not given: {missing}")


def _check_endpoint(llm: Llm, source: str) -> None:
    """Where a key could have been written by mistake, the value is not repeated: errors are logged."""
    if llm.api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", llm.api_key_env):
        raise ConfigError(f"{source}: llm.api_key_env is not the name of an environment variable; the key itself never stands here")
    if llm.backend != "openai":
        return
    try:
        url = urlsplit(llm.base_url)
        secret = bool(url.username or url.password or url.query)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and not url.fragment and url.port != 0
    except ValueError:  # a port that is no number
        secret, usable = False, False
    if secret:
        raise ConfigError(
            f"{source}: llm.base_url must not carry a user, a password or a query; the key belongs into "
            f"the environment variable {llm.api_key_env or 'that llm.api_key_env names'}"
        )
    if not usable:
        raise ConfigError(
            f"{source}: llm.base_url = {llm.base_url!r}: llm.backend = 'openai' needs http:// or https:// and a host, "
            "for instance https://api.openai.com/v1"
        )
