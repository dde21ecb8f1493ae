"""The console's routes: the page with and without its build, its assets, and the status for its live view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from rtvi_actors.config import Config
from rtvi_actors.edge import app, console
from rtvi_actors.errors import CapacityError
from rtvi_actors.rtvi.events import TurnFigures

pytestmark = pytest.mark.unit

SECRETS = ("/tmp", "secret_module", "pid", "path", "route", "actor_id", "token", "epoch")


class Scheduler:
    """What the scheduler says of an app with one session here and one elsewhere."""

    def __init__(self) -> None:
        self.asked = 0
        self.there = True

    async def status(self) -> dict[str, Any]:
        self.asked += 1
        if not self.there:
            raise CapacityError("the scheduler is not there", 2_000)
        return {
            "app": "rtvi_actors",
            "node": "abcdef",
            "capacity": {"sessions": 2, "max_sessions": 4, "free": 1, "granted": 5, "refused": 3},
            "sessions": [
                {"session": "s1", "edge": "app/edge/0", "group": "0", "age_s": 9.0, "actors": {"stt": {"pid": 5}}},
                {"session": "0123456789abcdef", "edge": "app/edge/1", "group": "1", "age_s": 1.5, "actors": {}},
            ],
            "engines": [
                {
                    "kind": "stt",
                    "name": "app/engine/stt/0",
                    "state": "up",
                    "pid": 7,
                    "path": "/tmp/x.sock",
                    "memory_bytes": 2_097_152,
                },
                {"kind": "llm", "name": "app/engine/llm/0", "state": "starting", "pid": 0},
            ],
        }


@pytest.fixture
def scheduler(edge: Any) -> Scheduler:
    scheduler = Scheduler()
    edge.admission.status = scheduler.status
    return scheduler


@pytest.fixture
def get(edge: Any, scheduler: Scheduler) -> Callable[..., Any]:
    """``await get(path, **settings of the section edge)``."""

    async def fetch(path: str, headers: dict[str, str] | None = None, **settings: Any) -> httpx.Response:
        bots = {"shop": "secret_module:Shop", "clinic": "secret_module:Clinic"}
        config = Config().replace(edge=settings, llm={"model": "/home/someone/models/mine"}, bots=bots)
        transport = httpx.ASGITransport(app=app.build(edge.sessions, config))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:7860") as client:
            return await client.get(path, headers=headers)

    return fetch


@pytest.fixture
def dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built page."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<title>built</title>")
    (tmp_path / "assets" / "index-abc.js").write_text("export {};")
    (tmp_path / "assets" / ".hidden").write_text("no")
    monkeypatch.setattr(console, "DIST", tmp_path)
    return tmp_path


def policy(response: httpx.Response) -> dict[str, str]:
    parts = (part.split(maxsplit=1) for part in response.headers["Content-Security-Policy"].split(";"))
    return {name: value for name, value in parts}


async def test_the_page_may_load_nothing_from_elsewhere(get: Callable[..., Any], dist: Path) -> None:
    response = await get("/")
    assert response.status_code == 200
    assert "built" in response.text
    assert response.headers["Cache-Control"] == "no-cache"
    rules = policy(response)
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self' ws://localhost:7860"
    for name in ("script-src", "style-src", "img-src"):
        assert rules[name] == "'self'"


async def test_the_page_may_reach_a_public_address(get: Callable[..., Any], dist: Path) -> None:
    response = await get("/", public_url="https://voice.example.org/bot")
    assert policy(response)["connect-src"] == "'self' wss://voice.example.org"


async def test_a_host_that_is_none_gets_no_rule_of_its_own(get: Callable[..., Any], dist: Path) -> None:
    response = await get("/", headers={"Host": "x; script-src *"})
    assert response.status_code == 200
    assert policy(response)["connect-src"] == "'self'"
    assert policy(response)["script-src"] == "'self'"


async def test_without_its_build_the_page_says_how_to_build_it(
    get: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "DIST", tmp_path / "missing")
    response = await get("/")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/html")
    for command in ("make console", "npm install", "npm run build"):
        assert command in response.text
    assert (await get("/assets/index-abc.js")).status_code == 404
    assert (await get("/api/status")).status_code == 200
    assert (await get("/health")).status_code == 200
    # Built while the server runs, it is there.
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "index.html").write_text("<title>built</title>")
    assert "built" in (await get("/")).text


async def test_assets_are_kept_by_their_names(get: Callable[..., Any], dist: Path) -> None:
    response = await get("/assets/index-abc.js")
    assert response.status_code == 200
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers["Content-Type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["nothing.js", ".hidden", "%2e%2e", "..%2findex.html", "%2e%2e%2findex.html", "a/b.js", ""])
async def test_nothing_but_assets_is_served(get: Callable[..., Any], dist: Path, path: str) -> None:
    assert (await get(f"/assets/{path}")).status_code == 404


async def test_the_status_shows_sessions_and_engines(get: Callable[..., Any], edge: Any) -> None:
    session, client = await edge.connect()
    session._conversation.figures.append(TurnFigures(1, 612.34, {"stt": 612.34}, 20.0))
    facts = (await get("/api/status")).json()
    assert facts["capacity"] == {"sessions": 2, "max_sessions": 4, "free": 1, "granted": 5, "refused": 3}
    here, elsewhere = facts["sessions"]
    assert here.pop("age_s") >= 0
    assert here == {"session": "s1", "bot": "silent", "turns": 0, "latency_ms": [612.3]}
    assert elsewhere == {"session": "01234567", "bot": "unknown", "age_s": 1.5, "turns": None, "latency_ms": []}
    assert [(engine["kind"], engine["state"], engine["memory_bytes"]) for engine in facts["engines"]] == [
        ("stt", "up", 2_097_152),
        ("llm", "starting", 0),
        ("tts", "starting", 0),
    ]
    assert facts["engines"][1]["model"] == "mine"
    assert facts["bots"] == ["clinic", "shop"]
    client.leave()


async def test_the_status_tells_nothing_that_helps_to_get_in(get: Callable[..., Any], edge: Any) -> None:
    _, client = await edge.connect()
    text = (await get("/api/status")).text
    assert [secret for secret in SECRETS if secret in text] == []
    assert "0123456789abcdef" not in text
    assert "/home" not in text
    client.leave()


async def test_the_scheduler_is_asked_once_for_many_pages(edge: Any, scheduler: Scheduler) -> None:
    status = console.Status(edge.sessions, Config())
    await asyncio.gather(*(status.read() for _ in range(20)))
    assert scheduler.asked == 1
    status._read_at -= console.STATUS_AGE_S
    await status.read()
    assert scheduler.asked == 2


async def test_a_scheduler_that_does_not_answer(get: Callable[..., Any], scheduler: Scheduler) -> None:
    scheduler.there = False
    response = await get("/api/status")
    assert response.status_code == 503
    assert response.json()["detail"].startswith("the scheduler is not there")


async def test_nothing_of_it_where_it_is_off(get: Callable[..., Any], dist: Path) -> None:
    assert "/ws" in (await get("/", console=False)).text
    assert (await get("/api/status", console=False)).status_code == 404
    assert (await get("/assets/index-abc.js", console=False)).status_code == 404


async def test_only_reading_is_possible(edge: Any, scheduler: Scheduler) -> None:
    transport = httpx.ASGITransport(app=app.build(edge.sessions, Config()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/", "/api/status", "/assets/index.js"):
            for method in ("POST", "PUT", "DELETE"):
                assert (await client.request(method, path)).status_code == 405
