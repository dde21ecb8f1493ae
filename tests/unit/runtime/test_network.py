"""Links between nodes, over TCP and TLS on the loopback: what gets through, and who does not."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from rtvi_actors.config import Cluster, Config, runtime_folder
from rtvi_actors.errors import AuthError, ConfigError
from rtvi_actors.frames.types import BotAudio, Cancel, Clause, Frame
from rtvi_actors.runtime import connector, network
from rtvi_actors.runtime.network import MAGIC, NONCE_BYTES, PROOF_BYTES, LinkKey, Network
from rtvi_actors.runtime.switchboard import Switchboard

pytestmark = pytest.mark.unit

KEY = LinkKey.new()
PLAIN = Network("127.0.0.1", KEY, Cluster())


def tls_of(folder: Path, authority: trustme.CA, name: str) -> Cluster:
    certificate = authority.issue_cert(f"{name}.example")
    files = {key: folder / f"{name}.{key}" for key in ("tls_cert", "tls_key", "tls_ca")}
    certificate.cert_chain_pems[0].write_to_path(files["tls_cert"])
    certificate.private_key_pem.write_to_path(files["tls_key"])
    authority.cert_pem.write_to_path(files["tls_ca"])
    return Cluster(**{key: str(path) for key, path in files.items()})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["tcp", "tls"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA) -> tuple[Network, Network]:
    if request.param == "tcp":
        return PLAIN, PLAIN
    a, b = (Network("127.0.0.1", KEY, tls_of(tmp_path, authority, name)) for name in "ab")
    return a, b


class Board:
    """A switchboard of a process on a node, and what it got."""

    def __init__(self, name: str, path: str, where: Network) -> None:
        self.frames: list[Frame] = []
        self.told: list[tuple[bool, str]] = []
        self.links = Switchboard(
            name,
            path,
            node=f"node of {name}",
            on_frame=lambda _, frame: self.frames.append(frame),
            on_peer=lambda _, up, reason: self.told.append((up, reason)),
            network=where,
        )


Start = Callable[[str, Network], Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    folder = runtime_folder()
    async with AsyncExitStack() as stack:

        async def begin(name: str, where: Network) -> Board:
            board = Board(name, str(folder / f"{name}.sock"), where)
            await board.links.open()
            stack.push_async_callback(board.links.close)
            return board

        yield begin
    assert list(folder.iterdir()) == []
    folder.rmdir()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_frames_go_both_ways_in_order(start: Start, nodes: tuple[Network, Network]) -> None:
    a, b = await start("a", nodes[0]), await start("b", nodes[1])
    a.links.dial("b", b.links.address)
    await a.links.wait_connected(["b"], 10)
    await b.links.wait_connected(["a"], 10)
    pcm = bytes(range(256)) * 200  # 51,200: more than a TLS record holds
    for number in range(60):
        a.links.send("b", BotAudio(clause=number, first_sample=0, pcm=pcm, session="s"))
        b.links.send("a", Clause(clause=number, text="x" * number, spoken=True, session="s"))
        if number % 10 == 0:
            await asyncio.sleep(0)
    a.links.send("b", Cancel(1, "stop", session="s"))
    await until(lambda: len(b.frames) == 61 and len(a.frames) == 60)
    sent = [frame for frame in b.frames if isinstance(frame, BotAudio)]
    assert [frame.clause for frame in sent] == list(range(60))
    assert {frame.pcm for frame in sent} == {pcm}
    assert [frame.clause for frame in a.frames] == list(range(60))
    assert b.links.peers()["a"].node == "node of a"


async def test_the_clocks_are_compared(start: Start, nodes: tuple[Network, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await start("a", nodes[0]), await start("b", nodes[1])
    a.links.dial("b", b.links.address)
    await until(lambda: all(board.links.peers() and _peer(board).round_trip_us for board in (a, b)))
    before_ns = time.monotonic_ns()
    a.links.send("b", Cancel(1, "now", session="s"))
    await until(lambda: b.frames)
    assert before_ns - _peer(b).round_trip_us * 1_000 <= b.frames[0].sent_ns <= time.monotonic_ns()


def _peer(board: Board) -> Any:
    return next(iter(board.links.peers().values()))


async def test_a_cut_link_comes_back(start: Start, nodes: tuple[Network, Network]) -> None:
    a, b = await start("a", nodes[0]), await start("b", nodes[1])
    a.links.dial("b", b.links.address)
    await a.links.wait_connected(["b"], 10)
    b.links._links["a"].close("cut")
    await until(lambda: [up for up, _ in a.told] == [True, False, True])
    a.links.send("b", Cancel(1, "again", session="s"))
    await until(lambda: b.frames)


@pytest.mark.parametrize("who_is_wrong", ["dialler", "listener"])
async def test_another_key_is_refused_and_counted(start: Start, who_is_wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    other = Network("127.0.0.1", LinkKey.new(), Cluster())
    a = await start("a", other if who_is_wrong == "dialler" else PLAIN)
    b = await start("b", PLAIN if who_is_wrong == "dialler" else other)
    a.links.dial("b", b.links.address)
    await until(lambda: b.links.figures()["links_refused"])
    assert not a.told
    assert not b.told
    assert "another key" in caplog.text
    assert KEY.secret.hex() not in caplog.text


async def test_plain_and_tls_do_not_meet(start: Start, tmp_path: Path, authority: trustme.CA) -> None:
    tls = Network("127.0.0.1", KEY, tls_of(tmp_path, authority, "c"))
    a, b = await start("a", PLAIN), await start("b", tls)
    a.links.dial("b", b.links.address)
    await until(lambda: b.links.figures()["links_refused"])
    assert not a.told


async def test_a_certificate_of_another_authority_is_refused(start: Start, tmp_path: Path, authority: trustme.CA) -> None:
    (tmp_path / "other").mkdir()
    ours = Network("127.0.0.1", KEY, tls_of(tmp_path, authority, "c"))
    theirs = Network("127.0.0.1", KEY, tls_of(tmp_path / "other", trustme.CA(), "c"))
    a, b = await start("a", theirs), await start("b", ours)
    with pytest.raises(AuthError, match="TLS"):
        await theirs.dial(b.links.address)
    a.links.dial("b", b.links.address)
    await until(lambda: b.links.figures()["links_refused"])
    assert not a.told


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(MAGIC[:3], id="half a greeting"),
        pytest.param(MAGIC + bytes(NONCE_BYTES), id="no proof"),
        pytest.param(MAGIC + bytes(NONCE_BYTES + PROOF_BYTES), id="a wrong proof"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: example\r\n" + bytes(200), id="another protocol"),
        pytest.param(bytes(100_000), id="zeros"),
    ],
)
async def test_a_stranger_is_hung_up_on(start: Start, first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "HELLO_TIMEOUT_S", 0.3)
    b = await start("b", PLAIN)
    reader, writer = await _connect(b)
    writer.write(first)
    got = await asyncio.wait_for(_read_all(reader), 10)
    # Never a proof: what depends on the key is told to nobody who has not proved himself.
    assert len(got) <= len(MAGIC) + NONCE_BYTES
    assert b.links.figures()["links_refused"] == 1
    writer.close()


async def test_what_we_said_cannot_be_said_back_to_us(start: Start) -> None:
    """A reflection: the stranger answers with a proof that it got from us in the other role."""
    b = await start("b", PLAIN)
    reader, writer = await _connect(b)
    nonce = bytes(NONCE_BYTES)
    writer.write(MAGIC + nonce)
    theirs = (await reader.readexactly(len(MAGIC) + NONCE_BYTES))[len(MAGIC) :]
    writer.write(KEY.proof(b"listener", nonce, theirs))
    await asyncio.wait_for(_read_all(reader), 10)
    assert b.links.figures()["links_refused"] == 1
    assert KEY.proof(b"listener", nonce, theirs) != KEY.proof(b"dialler", nonce, theirs)
    writer.close()


async def test_many_strangers_at_once_leave_room_for_a_peer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "HELLO_TIMEOUT_S", 0.5)
    b = await start("b", PLAIN)
    strangers = [await _connect(b) for _ in range(connector.MAX_GREETING + 20)]
    a = await start("a", PLAIN)
    a.links.dial("b", b.links.address)
    await a.links.wait_connected(["b"], 20)
    for _, writer in strangers:
        writer.close()


async def _connect(board: Board) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = board.links.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""


async def test_dialling_where_nobody_listens(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await PLAIN.dial(f"127.0.0.1:{port}")


async def test_without_a_network_there_is_no_port(start: Start) -> None:
    folder = runtime_folder()
    board = Switchboard("x", str(folder / "x.sock"), node="n", on_frame=lambda *_: None, on_peer=lambda *_: None)
    await board.open()
    assert board.address == ""
    await board.close()
    folder.rmdir()


async def test_the_first_free_port_of_the_range_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        some = Network("127.0.0.1", KEY, Cluster(link_ports=f"{port}-{port + 20}"))
        with some.listen() as listener:
            assert port < listener.getsockname()[1] <= port + 20
        none = Network("127.0.0.1", KEY, Cluster(link_ports=f"{port}-{port}"))
        with pytest.raises(ConfigError, match=f"link_ports = '{port}-{port}'.*in use"):
            none.listen()


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    bad = Network("127.0.0.1", KEY, Cluster(tls_cert=missing, tls_key=missing, tls_ca=missing))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        bad.listen()
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"none\.pem"):
        bad.listen()


def test_the_key_is_not_shown_and_survives_the_way_through_ray() -> None:
    assert "secret" not in repr(KEY)
    assert KEY.secret.hex() not in repr(PLAIN)
    assert repr(KEY.secret) not in repr(PLAIN)
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"link_ports": "9-8"}, "link_ports"),
        ({"link_ports": "0-8"}, "link_ports"),
        ({"link_ports": "65000-70000"}, "65535"),
        ({"link_ports": "all"}, "link_ports"),
        ({"tls_cert": "a.pem"}, "cluster.tls_key, cluster.tls_ca"),
    ],
)
def test_settings_that_cannot_be_used(cluster: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.from_dict({"cluster": cluster})


def test_tls_is_1_3_and_asks_both_sides_for_a_certificate(tmp_path: Path, authority: trustme.CA) -> None:
    where = Network("127.0.0.1", KEY, tls_of(tmp_path, authority, "d"))
    for server_side in (True, False):
        context = where._tls(server_side=server_side)
        assert context is not None
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
    assert network.Network("::1", KEY, Cluster())._tls(server_side=True) is None
