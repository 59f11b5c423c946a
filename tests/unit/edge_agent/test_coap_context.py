"""OSCORE's cryptography: the vectors of RFC 8613 Appendix C, and aiocoap's contexts at the other end."""

import pytest
from aiocoap import CONTENT, POST, Message
from aiocoap.message import Direction
from aiocoap.oscore import RequestIdentifiers, algorithms
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collect.coap_context import NUMBER_BYTES, Option, SecurityContext, read_option
from edge_agent.collect.oscore_file import ALGORITHMS, DeviceKeys
from tests.oscore import DeviceContext

SECRET = bytes.fromhex("0102030405060708090a0b0c0d0e0f10")
SALT = bytes.fromhex("9e7ca92223786340")
ID_CONTEXT = bytes.fromhex("37cbf3210017a2d3")


def of(kid: str, own: str, salt: bytes, id_context: bytes | None = None) -> SecurityContext:
    return SecurityContext(
        DeviceKeys(
            device="d",
            recipient_id=bytes.fromhex(kid),
            sender_id=bytes.fromhex(own),
            master_secret=SECRET,
            master_salt=salt,
            id_context=id_context,
        )
    )


@pytest.mark.parametrize(
    ("context", "device_key", "gateway_key", "common_iv"),
    [
        (
            of("", "01", SALT),
            "f0910ed7295e6ad4b54fc793154302ff",
            "ffb14e093c94c9cac9471648b4f98710",
            "4622d4dd6d944168eefb54987c",
        ),
        (
            of("00", "01", b""),
            "321b26943253c7ffb6003b0b64d74041",
            "e57b5635815177cd679ab4bcec9d7dda",
            "be35ae297d2dace910c52e99f9",
        ),
        (
            of("", "01", SALT, ID_CONTEXT),
            "af2a1300a5e95788b356336eeecd2b92",
            "e39a0c7c77b43f03b4b39ab9a268699f",
            "2ca58fb85ff1b81c0b7181b85e",
        ),
    ],
    ids=["C.1", "C.2", "C.3"],
)
def test_keys_are_derived_as_in_the_rfc(
    context: SecurityContext, device_key: str, gateway_key: str, common_iv: str
) -> None:
    assert context.recipient_key.hex() == device_key
    assert context.sender_key.hex() == gateway_key
    assert context.common_iv.hex() == common_iv


@pytest.mark.parametrize(
    ("context", "option", "ciphertext"),
    [
        (of("", "01", SALT), "0914", "612f1092f1776f1c1668b3825e"),
        (of("00", "01", b""), "091400", "4ed339a5a379b0b8bc731fffb0"),
        (of("", "01", SALT, ID_CONTEXT), "19140837cbf3210017a2d3", "72cd7273fd331ac45cffbe55c3"),
    ],
    ids=["C.4", "C.5", "C.6"],
)
def test_requests_are_opened_as_in_the_rfc(context: SecurityContext, option: str, ciphertext: str) -> None:
    asked = read_option(bytes.fromhex(option))
    assert asked == Option(b"\x14", context.keys.recipient_id, context.keys.id_context)
    assert context.open(asked, bytes.fromhex(ciphertext)) == bytes.fromhex("01b3747631")  # GET tv1
    for at in range(13):
        changed = bytearray.fromhex(ciphertext)
        changed[at] ^= 1
        assert context.open(asked, bytes(changed)) is None
    assert context.open(asked._replace(piv=b"\x15"), bytes.fromhex(ciphertext)) is None


def test_answers_with_a_number_of_their_own_are_sealed_as_in_the_rfc() -> None:
    """C.8. There is nothing for C.7: no answer here is sealed under the nonce of its request."""
    option, payload = of("", "01", SALT).seal(Option(b"\x14", b"", None), 0, b"\x45\xffHello World!")
    assert option.hex() == "0100"
    assert payload.hex() == "4d4c13669384b67354b2b6175ff4b8658c666a6cf88e"


ids = st.binary(max_size=6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    ids=st.tuples(ids, ids).filter(lambda pair: pair[0] != pair[1]),
    salt=st.binary(max_size=64),
    id_context=st.none() | st.binary(min_size=1, max_size=64),
    numbers=st.tuples(st.integers(0, 2**40 - 2), st.integers(0, 2**40 - 1)),
    payload=st.binary(max_size=40),
)
def test_the_other_end_is_aiocoap(
    algorithm: str,
    ids: tuple[bytes, bytes],
    salt: bytes,
    id_context: bytes | None,
    numbers: tuple[int, int],
    payload: bytes,
) -> None:
    keys = DeviceKeys(
        device="d",
        recipient_id=ids[0],
        sender_id=ids[1],
        master_secret=SECRET,
        master_salt=salt,
        id_context=id_context,
        algorithm=algorithm,
    )
    context, device = SecurityContext(keys), DeviceContext(keys)
    assert algorithms[algorithm].value == ALGORITHMS[algorithm].number
    device.sender_sequence_number = numbers[0]
    request, identifiers = device.protect(Message(code=POST, uri_path=["a"], payload=payload))
    assert isinstance(identifiers, RequestIdentifiers)
    asked = read_option(request.opt.oscore)
    assert asked is not None
    assert (int.from_bytes(asked.piv), asked.kid, asked.kid_context) == (numbers[0], ids[0], id_context)
    assert context.open(asked, request.payload) == b"\x02\xb1a" + (b"\xff" + payload if payload else b"")

    option, sealed = context.seal(asked, numbers[1], b"\x45\xff" + payload + b".")
    answer = Message(code=CONTENT, payload=sealed, oscore=option)
    answer.direction = Direction.INCOMING
    opened, _ = device.unprotect(answer, identifiers)
    assert (opened.code, opened.payload) == (CONTENT, payload + b".")


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_no_option_and_no_ciphertext_raises(option: bytes, ciphertext: bytes) -> None:
    asked = read_option(option)
    if asked is not None:
        assert 1 <= len(asked.piv) <= NUMBER_BYTES
        assert of("", "01", SALT).open(asked, ciphertext) is None


@pytest.mark.parametrize(
    "option",
    ["", "00", "01", "0114", "08", "09", "0e000000000000", "19", "1914", "191402aa", "2914", "4914", "8914"],
)
def test_options_that_name_no_request_are_none(option: str) -> None:
    """Without a number, without a kid, cut off, or with flags that nobody has defined (6.1)."""
    assert read_option(bytes.fromhex(option)) is None
