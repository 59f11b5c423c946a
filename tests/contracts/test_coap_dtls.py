"""CoAP over DTLS: libcoap's clients on OpenSSL and GnuTLS, a device of raw DTLS, garbage, keys that others can read."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest
from aiocoap import POST, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from OpenSSL import SSL

from edge_agent.collect.coap_dtls import Session, Sessions
from edge_agent.collect.coap_keys import Keys
from edge_agent.collect.coap_secure import Peer, Secure
from edge_agent.collect.psk_file import load_keys
from edge_agent.config import Coap, Dtls, GatewayConfig
from edge_agent.run import make_collectors
from proof.mixed_dtls import DtlsClient
from proof.ports import free_port
from telemetry.clock import SystemClock
from telemetry.errors import ConfigError
from tests.brokers import HOST
from tests.coap import FakeClock, Sink, libcoap, serving

KEY = "0123456789abcdef"
KEYS = {b"meter": KEY.encode(), b"boiler": b"k" * 32}


def psk_file(folder: Path, text: str | None = None, mode: int = 0o600) -> Path:
    path = folder / "coap.psk"
    lines = "".join(f"{identity.decode()}:{key.hex()}\n" for identity, key in KEYS.items())
    path.write_text(f"# the devices\n\n{lines}" if text is None else text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("client", ["coap-client-openssl", "coap-client-gnutls"])
def test_libcoap_posts_over_dtls(client: str, tmp_path: Path) -> None:
    assert shutil.which(client), "install libcoap's clients (Debian: libcoap3-bin)"

    async def main() -> None:
        sink, port = Sink(), free_port()
        secure = Secure(Dtls(psk_file=psk_file(tmp_path), port=port), HOST)
        url = f"coaps://{HOST}:{port}/telemetry/meter-1"

        async def post(payload: str, identity: str = "meter", key: str = KEY, seconds_max: int = 20) -> str:
            arguments = ("-u", identity, "-k", key, "-m", "post", "-t", "50", "-b", "64", "-e", payload, url)
            return await libcoap(*arguments, client=client, seconds_max=seconds_max)

        async with serving(sink.deliver, secure=secure) as plain:
            assert await post('{"power": 1}') == ""
            assert await post('{"log": "' + "x" * 1000 + '"}') == "", "in blocks"
            assert "not valid JSON" in await post("{")
            assert await libcoap("-m", "post", "-e", '{"power": 2}', f"coap://{HOST}:{plain}/telemetry/m") == ""
            taken = len(sink.chunks)
            assert "no answer" in await post('{"power": 3}', "nobody")
            assert "failed at the handshake" in secure.state()
            assert "no answer" in await post('{"power": 3}', "meter", "x" * 16, seconds_max=1)
            assert len(sink.chunks) == taken == 4

    asyncio.run(main())


class Client(DtlsClient):
    """A device's end of DTLS, face to face with a server's."""

    def shake(self, sessions: Sessions, address: tuple[object, ...]) -> None:
        """The whole handshake."""
        for _ in range(10):
            if self.shakes():
                return
            for datagram in self.sends():
                sessions.receive(datagram, address, lambda data, _address: self.connection.bio_write(data))
        raise AssertionError("no handshake")


def address(port: int) -> tuple[object, ...]:
    return (f"::ffff:{HOST}", port, 0, 0)


def test_a_device_that_restarts_begins_a_new_session_from_the_same_port() -> None:
    sessions, sent = Sessions(KEYS, 10), []
    numbers = []
    for _ in range(2):
        device = Client(b"meter", KEYS[b"meter"])
        device.shake(sessions, address(1))
        received = sessions.receive(device.says(b"hello"), address(1), lambda data, _: sent.append(data))
        assert received is not None
        session, said = received
        assert said == [b"hello"]
        numbers.append(session.number)
        sessions.write(session, b"well", lambda data, _: sent.append(data))
        device.connection.bio_write(sent.pop())
        assert device.connection.recv(100) == b"well"
    assert numbers == [1, 2]
    assert len(sessions) == 1


def test_a_message_that_is_repeated_in_a_new_session_has_the_key_that_it_had() -> None:
    """The agent's sessions do not survive it; a device may shake hands anew and send the same message."""

    def of(number: int, port: int = 1, mid: int = 7) -> Message:
        request = Message(code=POST, payload=b"x", _mid=mid, _token=b"t")
        request.remote = Peer(Session(number, address(port), None))
        return request

    keys = Keys(FakeClock(), b"a boot")
    assert keys.own(of(1)) == keys.own(of(2))
    assert set(keys.own(of(1))).isdisjoint([*keys.known_as(of(1, port=2)), *keys.known_as(of(1, mid=8))])
    assert set(keys.own(of(1))) & set(keys.known_as(of(2)))
    assert of(1).remote.sockaddr != of(2).remote.sockaddr, "while the agent runs, a session has message ids of its own"


def test_sessions_are_limited_and_the_quiet_one_makes_room() -> None:
    sessions = Sessions(KEYS, 2)
    devices = [Client(b"boiler", KEYS[b"boiler"]) for _ in range(3)]

    def hears(number: int) -> bool:
        return bool(sessions.receive(devices[number].says(b"x"), address(number), lambda *_: None))

    devices[0].shake(sessions, address(0))
    devices[1].shake(sessions, address(1))
    assert hears(0)
    devices[2].shake(sessions, address(2))
    assert [hears(0), hears(1), hears(2), len(sessions)] == [True, False, True, 2]


def test_a_hello_without_its_cookie_costs_nothing_and_a_cookie_is_of_one_address() -> None:
    sessions, device, sent = Sessions(KEYS, 10), Client(b"meter", KEYS[b"meter"]), []
    with pytest.raises(SSL.WantReadError):
        device.connection.do_handshake()
    (hello,) = device.sends()
    for _ in range(3):
        assert sessions.receive(hello, address(1), lambda data, _: sent.append(data)) is None
    assert len(sessions) == 0
    device.connection.bio_write(sent[-1])
    with pytest.raises(SSL.WantReadError):
        device.connection.do_handshake()
    (with_cookie,) = device.sends()
    sessions.receive(with_cookie, address(2), lambda *_: None)
    assert len(sessions) == 0
    sessions.receive(with_cookie, address(1), lambda *_: None)
    assert len(sessions) == 1


_sessions, _device = Sessions(KEYS, 10), Client(b"meter", KEYS[b"meter"])
_device.shake(_sessions, address(1))
_record = _device.says(b"hello")


@settings(max_examples=200)
@given(st.data())
def test_no_datagram_raises_or_makes_a_session(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([_record, b"\x16\xfe\xfd" + bytes(10) + b"\x01" + bytes(40), b""]))
    changed = bytearray(base) or bytearray(data.draw(st.binary(max_size=60)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4)):
        changed[at % max(1, len(changed)) :][:1] = bytes([byte])
    where = address(data.draw(st.integers(1, 2)))
    _sessions.receive(bytes(changed), where, lambda *_: None)
    assert len(_sessions) <= 1


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        (None, 0o640, "has mode 0640, so others may read the keys. Use: chmod 600 "),
        ("meter:00", 0o600, "line 1 is not identity:key. A line is an identity of at most 128 bytes, a colon, and 16"),
        ("a:" + "0" * 31 + "x", 0o600, "line 1 is not identity:key"),
        (":" + "0" * 32, 0o600, "line 1 is not identity:key"),
        (f"a:{'0' * 32}\na:{'1' * 32}", 0o600, "line 2 names an identity again"),
        ("# none\n", 0o600, "has 0 keys"),
    ],
)
def test_keys_that_cannot_be_used_are_a_sentence(text: str | None, mode: int, sentence: str, tmp_path: Path) -> None:
    path = psk_file(tmp_path, text, mode)
    with pytest.raises(ConfigError) as raised:
        load_keys(path)
    assert sentence in str(raised.value)
    assert str(path) in str(raised.value)


def test_without_its_library_dtls_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edge_agent.collect.coap_secure", None)
    config = GatewayConfig(gateway="g", coap=Coap(dtls=Dtls(psk_file=psk_file(tmp_path))))
    with pytest.raises(ConfigError, match=r"Install it with: pip install 'fieldline\[dtls\]'"):
        make_collectors(config, SystemClock(), lambda _key: False)


def test_keys_are_read_whole(tmp_path: Path) -> None:
    assert load_keys(psk_file(tmp_path)) == KEYS
    assert load_keys(psk_file(tmp_path, f"urn:dev:1:{'0a' * 16}\n")) == {b"urn:dev:1": b"\n" * 16}
    with pytest.raises(ConfigError, match="cannot read psk_file"):
        load_keys(tmp_path / "none")
