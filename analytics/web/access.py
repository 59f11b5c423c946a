"""Who may come in: a sign-in by password, and checks that a request is from a page of ours. ASGI, before all else.

Without a password the dashboard listens on loopback only, and answers only to names of loopback: a page of another
site whose name was pointed here (DNS rebinding) is refused. With one, every request needs a session: a cookie, HttpOnly
and SameSite=Strict, that this process signed; it ends after `SESSION_S`, and with the process.
A websocket, and whatever changes something, must come from our own origin. Passwords are tried one at a time, and
after `TRIES_FREE` wrong ones an address waits, twice as long each time, up to `WAIT_S_MAX`.
"""

import asyncio
import hashlib
import hmac
import html
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

COOKIE = "fieldline_session"
SESSION_S = 12 * 3600
TRIES_FREE = 3
WAIT_S_MAX = 60.0
ADDRESSES_MAX = 1000
FORM_BYTES_MAX = 4096
TRY_S = 0.2

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Sessions:
    """Signed tokens `EXPIRY.NONCE.SIGNATURE`; the key lives as long as the process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def _sign(self, said: str) -> str:
        return hmac.new(self._key, said.encode(), hashlib.sha256).hexdigest()

    def issue(self, now_s: float) -> str:
        """A token that is good for SESSION_S."""
        said = f"{int(now_s) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{said}.{self._sign(said)}"

    def is_good(self, token: str, now_s: float) -> bool:
        """Whether we signed it, and not too long ago."""
        said, _, signature = token.rpartition(".")
        expiry = said.partition(".")[0]
        signed = hmac.compare_digest(signature.encode(), self._sign(said).encode())
        return signed and expiry.isdigit() and now_s < int(expiry)


class Tries:
    """Wrong passwords per address, and how long it must wait. The oldest of ADDRESSES_MAX is forgotten."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Seconds until it may try again."""
        count, last_s = self._wrong.get(address, (0, 0.0))
        if count < TRIES_FREE:
            return 0.0
        return float(max(last_s + min(2.0 ** (count - TRIES_FREE + 1), WAIT_S_MAX) - now_s, 0.0))

    def note(self, address: str, now_s: float, *, right: bool) -> None:
        """What came of a try."""
        count, _ = self._wrong.pop(address, (0, 0.0))
        if not right:
            self._wrong[address] = (count + 1, now_s)
            while len(self._wrong) > ADDRESSES_MAX:
                self._wrong.popitem(last=False)


class Guard:
    """The ASGI application around the dashboard's own."""

    def __init__(self, inner: ASGIApp, password: str | None) -> None:
        self._inner = inner
        self._password = password
        self._sessions = Sessions()
        self._tries = Tries()
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = await self._refusal(scope, headers, receive)
        if refusal is None:
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4403})
        else:
            refusal.headers.update(_HEADERS)
            await refusal(scope, receive, send)

    async def _refusal(  # noqa: PLR0911 - a check each
        self, scope: Scope, headers: dict[str, str], receive: Receive
    ) -> Response | None:
        host = headers.get("host", "")
        if self._password is None and not is_loopback(_host_name(host)):
            return PlainTextResponse("Without a password the dashboard answers on localhost only.", 403)
        changes = scope["type"] == "websocket" or scope["method"] not in {"GET", "HEAD"}
        origin = headers.get("origin")
        # a browser always states the origin of a websocket and of a form
        if changes and (origin is None or urlsplit(origin).netloc != host):
            return PlainTextResponse("This did not come from a page of the dashboard.", 403)
        if self._password is None:
            return None
        if scope["type"] == "http" and scope["path"] == "/sign-in":
            return await self._sign_in(scope, receive)
        if scope["type"] == "http" and scope["path"] == "/sign-out":
            gone = RedirectResponse("/sign-in", 303)
            gone.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
            return gone
        if self._sessions.is_good(_cookie(headers), time.time()):
            return None
        if scope["type"] == "websocket" or scope["path"].startswith("/_nicegui"):
            return PlainTextResponse("Sign in first.", 401)
        there = scope["path"] + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        return RedirectResponse(f"/sign-in?to={quote(there)}", 303)

    async def _sign_in(self, scope: Scope, receive: Receive) -> Response:
        to = _own_path(parse_qs(scope["query_string"].decode("latin-1")).get("to", ["/"])[0])
        if scope["method"] != "POST":
            return _form(to)
        form = parse_qs((await _body(receive)).decode("utf-8", "replace"))
        address = (scope.get("client") or ("", 0))[0]
        async with self._one_at_a_time:
            if wait_s := self._tries.wait_s(address, time.monotonic()):
                return _form(to, f"Too many wrong passwords. Wait {wait_s:.0f} s and try again.", 429)
            await asyncio.sleep(TRY_S)
            assert self._password is not None
            right = hmac.compare_digest(form.get("password", [""])[0].encode(), self._password.encode())
            self._tries.note(address, time.monotonic(), right=right)
        if not right:
            return _form(to, "That is not the password. Try again.", 403)
        come_in = RedirectResponse(to, 303)
        secure = scope.get("scheme") == "https"
        token = self._sessions.issue(time.time())
        come_in.set_cookie(COOKIE, token, SESSION_S, path="/", httponly=True, samesite="strict", secure=secure)
        return come_in


def _host_name(host: str) -> str:
    return urlsplit(f"//{host}").hostname or ""


def _own_path(path: str) -> str:
    """A path of ours; one that a browser would take for another host becomes the first page."""
    path = unquote(path)
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def _cookie(headers: MutableMapping[str, str]) -> str:
    try:
        cookie: SimpleCookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookie[COOKIE].value if COOKIE in cookie else ""


async def _body(receive: Receive) -> bytes:
    body = b""
    more = True
    while more and len(body) <= FORM_BYTES_MAX:
        message: Any = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body[:FORM_BYTES_MAX]


def _form(to: str, said: str = "", status: int = 200) -> HTMLResponse:
    alert = f'<p role="alert">{html.escape(said)}</p>' if said else ""
    return HTMLResponse(
        _FORM.replace("ACTION", html.escape(f"/sign-in?to={quote(to)}")).replace("ALERT", alert), status
    )


_FORM = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sign in · Fieldline</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><style>
body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.5 system-ui,sans-serif;
 background:light-dark(#f6f7f9,#101418);color:light-dark(#17202b,#e4e9ef)}
form{box-sizing:border-box;width:min(22rem,calc(100vw - 2rem));padding:2rem;border-radius:12px;
 background:light-dark(#fff,#181e25);border:1px solid light-dark(#dfe4ea,#2b343e)}
h1{font-size:1.25rem;margin:0 0 1rem}label{display:block;font-size:.875rem}
input,button{box-sizing:border-box;width:100%;font:inherit;padding:.6rem .75rem;border-radius:8px;margin-top:.25rem}
input{border:1px solid light-dark(#7d8896,#6d7a89);background:transparent;color:inherit}
button{margin-top:1rem;border:0;background:light-dark(#0b63ce,#5aa2ff);color:light-dark(#fff,#08121f);font-weight:600}
:focus-visible{outline:2px solid light-dark(#0b63ce,#5aa2ff);outline-offset:2px}
[role=alert]{color:light-dark(#b3261e,#ff8a80);font-size:.875rem}
</style></head><body><form method="post" action="ACTION"><h1>Fieldline</h1>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
ALERT<button>Sign in</button></form></body></html>"""
