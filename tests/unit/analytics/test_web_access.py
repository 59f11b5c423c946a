"""Who may come in: the checks of `analytics.web.access`, without a browser."""

import asyncio
from typing import Any
from urllib.parse import urlencode

import pytest

from analytics.web.access import ADDRESSES_MAX, COOKIE, SESSION_S, Guard, Sessions, Tries, is_loopback

HOME = {"host": "127.0.0.1:8080"}
SAME = HOME | {"origin": "http://127.0.0.1:8080"}
PASSWORD = "correct horse"


async def _inside(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})


def ask(guard: Guard, path: str, headers: dict[str, str], method: str = "GET", body: bytes = b"") -> Any:
    """The first thing that is answered; method WS is a websocket."""
    path, _, query = path.partition("?")
    scope = {
        "type": "websocket" if method == "WS" else "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("192.0.2.1", 1),
        "scheme": "http",
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    first = sent[0]
    first["head"] = {name.decode(): value.decode() for name, value in first.get("headers", [])}
    return first


def sign_in(guard: Guard, password: str, to: str = "/") -> Any:
    form = urlencode({"password": password}).encode()
    return ask(guard, f"/sign-in?{urlencode({'to': to})}", SAME, "POST", form)


def signed_in(guard: Guard) -> dict[str, str]:
    return SAME | {"cookie": sign_in(guard, PASSWORD)["head"]["set-cookie"].partition(";")[0]}


def test_without_a_password_only_names_of_loopback_are_answered() -> None:
    guard = Guard(_inside, None)
    assert ask(guard, "/", HOME)["status"] == 200
    assert ask(guard, "/", {"host": "localhost:8080"})["status"] == 200
    assert ask(guard, "/", {"host": "[::1]:8080"})["status"] == 200
    assert ask(guard, "/", {"host": "rebound.example:8080"})["status"] == 403
    assert ask(guard, "/", {})["status"] == 403


def test_a_websocket_must_come_from_our_own_pages() -> None:
    guard = Guard(_inside, None)
    assert ask(guard, "/_nicegui_ws/", SAME, "WS")["type"] == "websocket.accept"
    assert ask(guard, "/_nicegui_ws/", HOME, "WS")["type"] == "websocket.close"
    other = HOME | {"origin": "http://elsewhere.example"}
    assert ask(guard, "/_nicegui_ws/", other, "WS")["type"] == "websocket.close"
    assert ask(guard, "/_nicegui_ws/", other, "POST")["status"] == 403


def test_with_a_password_everything_needs_a_session() -> None:
    guard = Guard(_inside, PASSWORD)
    answer = ask(guard, "/sql?a=b", SAME)
    assert (answer["status"], answer["head"]["location"]) == (303, "/sign-in?to=/sql%3Fa%3Db")
    assert ask(guard, "/_nicegui/x.js", SAME)["status"] == 401
    assert ask(guard, "/_nicegui_ws/", SAME, "WS")["type"] == "websocket.close"
    assert ask(guard, "/sign-in", SAME)["status"] == 200
    inside = signed_in(guard)
    assert ask(guard, "/", inside)["status"] == 200
    assert ask(guard, "/_nicegui_ws/", inside, "WS")["type"] == "websocket.accept"
    assert ask(Guard(_inside, PASSWORD), "/", inside)["status"] == 303  # another process signs with another key
    gone = ask(guard, "/sign-out", inside)["head"]["set-cookie"]
    assert gone.startswith(f'{COOKIE}=""')


def test_the_cookie_is_for_this_site_and_not_for_scripts() -> None:
    cookie = sign_in(Guard(_inside, PASSWORD), PASSWORD)["head"]["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/\\evil.example", "/%5Cevil.example", "x\n"])
def test_signing_in_leads_to_no_other_site(to: str) -> None:
    assert sign_in(Guard(_inside, PASSWORD), PASSWORD, to)["head"]["location"] == "/"


def test_wrong_passwords_are_slowed_down() -> None:
    guard = Guard(_inside, PASSWORD)
    assert [sign_in(guard, "guess")["status"] for _ in range(4)] == [403, 403, 403, 429]
    assert sign_in(guard, PASSWORD)["status"] == 429


def test_waiting_doubles_and_ends() -> None:
    tries = Tries()
    for count in range(12):
        tries.note("a", 100.0, right=False)
        assert tries.wait_s("a", 100.0) == (0 if count < 2 else min(2.0 ** (count - 1), 60.0))
    assert tries.wait_s("b", 100.0) == 0
    assert tries.wait_s("a", 161.0) == 0
    tries.note("a", 161.0, right=True)
    assert tries.wait_s("a", 161.0) == 0


def test_addresses_are_not_kept_without_end() -> None:
    tries = Tries()
    for number in range(ADDRESSES_MAX + 5):
        for _ in range(3):
            tries.note(str(number), 0.0, right=False)
    assert tries.wait_s("0", 0.0) == 0
    assert tries.wait_s(str(ADDRESSES_MAX), 0.0) > 0


def test_a_session_ends_and_cannot_be_made_up() -> None:
    sessions = Sessions()
    token = sessions.issue(1000.0)
    assert sessions.is_good(token, 1000.0 + SESSION_S - 1)
    assert not sessions.is_good(token, 1000.0 + SESSION_S)
    assert not sessions.is_good("9" + token, 1000.0)
    assert not sessions.is_good("", 1000.0)
    assert not sessions.is_good("9999999999.x.é", 1000.0)


def test_what_loopback_is() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.3.2.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "localhost.example", "")))
