"""For tests of OSCORE: keys of devices as the gateway and as aiocoap's client have them, and that client."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from aiocoap import GET, POST, Context, Message, oscore
from aiocoap.message import Direction
from aiocoap.numbers.constants import TransportTuning

from edge_agent.collect.oscore_file import DeviceKeys
from tests.coap import Device, message

SECRET = "0102030405060708090a0b0c0d0e0f10"
METER = {"recipient_id": "01", "sender_id": "", "master_secret": SECRET, "master_salt": "9e7ca92223786340"}
TANK = {"recipient_id": "02", "sender_id": "00", "master_secret": SECRET[::-1], "id_context": "37cbf3210017a2d3"}
DEVICES = {"meter-1": METER, "tank": TANK}
CHANGED, UNAUTHORIZED = "2.04 Changed", "4.01 Unauthorized"


def keys_file(folder: Path, devices: dict[str, dict[str, str]] | None = None, mode: int = 0o600) -> Path:
    """The gateway's file."""
    path = folder / "coap.oscore.toml"
    path.touch(mode=0o600)
    path.write_text(
        "".join(
            f"[{json.dumps(device)}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for device, keys in (DEVICES if devices is None else devices).items()
        )
    )
    path.chmod(mode)
    return path


def device_folder(folder: Path, device: str, keys: dict[str, str] | None = None) -> Path:
    """The same on the device, as aiocoap has it: which IDs are whose is the other way round."""
    path = folder / f"device-{device}"
    path.mkdir(exist_ok=True)
    names = {
        "recipient_id": "sender-id_hex",
        "sender_id": "recipient-id_hex",
        "master_secret": "secret_hex",
        "master_salt": "salt_hex",
        "id_context": "id-context_hex",
        "algorithm": "algorithm",
    }
    settings = {names[key]: value for key, value in (keys or DEVICES[device]).items()}
    (path / "settings.json").write_text(json.dumps(settings))
    return path


@asynccontextmanager
async def oscore_client(port: int, folder: Path) -> AsyncIterator[Context]:
    """aiocoap's client, with the keys in a folder."""
    context = await Context.create_client_context()
    try:
        context.client_credentials.load_from_dict({f"coap://127.0.0.1:{port}/*": {"oscore": {"basedir": str(folder)}}})
        yield context
    finally:
        await context.shutdown()
        context.client_credentials.clear()


async def post(context: Context, port: int, path: str, payload: bytes, **options: Any) -> Any:
    """The answer to a post."""
    uri = f"coap://127.0.0.1:{port}/{path}"
    return await context.request(Message(code=POST, uri=uri, payload=payload, **options)).response


class Unreliable(TransportTuning):
    """Non-confirmable."""

    reliability = False


class DeviceContext(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):
    """aiocoap's security context of a device, in memory."""

    def __init__(self, keys: DeviceKeys) -> None:
        self.alg_aead = oscore.algorithms[keys.algorithm]
        self.hashfun = oscore.hashfunctions["sha256"]
        self.sender_id, self.recipient_id, self.id_context = keys.recipient_id, keys.sender_id, keys.id_context
        self.derive_keys(keys.master_salt, keys.master_secret)
        self.sender_sequence_number = 0
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.echo_recovery = None
        self.numbers_heard: list[bytes] = []
        """Of the answers' nonces."""
        self.says_instead: bytes | None = None
        """A plaintext in place of every message's own."""

    def post_seqnoincrease(self) -> None:
        pass

    def _split_message(self, message: Any, request_id: Any) -> tuple[Any, bytes]:
        outer, plaintext = super()._split_message(message, request_id)
        return outer, plaintext if self.says_instead is None else self.says_instead

    def seal(self, datagram: bytes, **options: Any) -> "Sealed":
        """A datagram as it is sent. options: more of those inside."""
        plain = Message.decode(datagram)
        plain.direction = Direction.OUTGOING
        for name, value in options.items():
            setattr(plain.opt, name, value)
        outer, identifiers = self.protect(plain)
        outer.mid, outer.token, outer.mtype = plain.mid, plain.token, plain.mtype
        return Sealed(outer.encode(), identifiers)

    def open(self, sealed: "Sealed", datagram: bytes) -> Any:
        """What is in the answer to a sealed message."""
        answer = Message.decode(datagram)
        answer.direction = Direction.INCOMING
        self.numbers_heard.append(answer.opt.oscore)
        return self.unprotect(answer, sealed.identifiers)[0]


@dataclass(frozen=True)
class Sealed:
    data: bytes
    identifiers: Any


class Talk:
    """A device with an address."""

    def __init__(self, port: int, context: DeviceContext) -> None:
        self.port, self.udp, self.context = port, Device(port), context
        self._mid = 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.udp.sock.close()

    def moves(self) -> None:
        """Have another port from now on."""
        self.udp.sock.close()
        self.udp = Device(self.port)

    def says(self, inner: dict[str, Any] | None = None, **of_message: Any) -> Sealed:
        """A new message. inner: options more."""
        self._mid += 1
        return self.context.seal(message(**{"mid": self._mid} | of_message), **inner or {})

    async def hears(self, sealed: Sealed) -> Any:
        return self.context.open(sealed, (await self.udp.receive()).data)

    async def ask(self, sealed: Sealed) -> Any:
        self.udp.send(sealed.data)
        return await self.hears(sealed)

    async def code(self, sealed: Sealed) -> str:
        return str((await self.ask(sealed)).code)

    async def is_challenged(self, sealed: Sealed) -> bytes:
        """The Echo that is asked for."""
        answer = await self.ask(sealed)
        assert str(answer.code) == UNAUTHORIZED
        assert answer.opt.echo
        return bytes(answer.opt.echo)

    async def begins(self) -> None:
        """Let the agent that listens now know the numbers, by requests that change nothing."""
        get: dict[str, Any] = {"path": ".well-known/core", "payload": b"", "code": int(GET)}
        echo = await self.is_challenged(self.says(**get))
        assert await self.code(self.says({"echo": echo}, **get)) == "2.05 Content"
