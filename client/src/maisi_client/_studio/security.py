"""Access control: only the page of this process, in the browser that opened its link, has access.

Other sites in the same browser must not read or change anything. The guard therefore checks Host,
Origin and Sec-Fetch-Site, and requires a header that needs a preflight, which the server does not
answer. Other users of the machine must not have access either. The guard therefore requires a token
in the link, and then a cookie. Another site, such as a web terminal, may contain the link: it opens
a whole page, which that site cannot read.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import response

# Only the page's own files; blob: is for data that the page makes, such as downloads and workers.
_CSP = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_READING = ("GET", "HEAD")
# After a redirect from another site, browsers do not send a cookie with SameSite=Strict. Therefore
# the link is answered with a page that opens the real page: that request has the cookie.
_GO_ON = '<!doctype html><title>maisi studio</title><meta http-equiv="refresh" content="0; url=/">'


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Access:
    """The allowed Host headers, and the secrets of a session.

    The first of `hosts` is used in links. `token` is in the link, and `token_once` in a link that
    opens the page only once. The browser gets `cookie` for either token.
    """

    hosts: tuple[str, ...]
    token: str = field(default_factory=_secret, repr=False)
    token_once: str = field(default_factory=_secret, repr=False)
    cookie: str = field(default_factory=_secret, repr=False)

    @property
    def link(self) -> str:
        """The link that opens the page."""
        return f"http://{self.hosts[0]}/?token={self.token}"

    @property
    def link_once(self) -> str:
        """The link that opens the page once."""
        return f"http://{self.hosts[0]}/?token={self.token_once}"

    @property
    def cookie_name(self) -> str:
        """The cookie's name, which has the port, because browsers share cookies between ports."""
        return f"maisi_studio_{self.hosts[0].rpartition(':')[2]}"


class Guard:
    """The outermost middleware, which refuses requests that `access` does not allow."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access, self._used = app, access, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it to the application; add `_HEADERS` to every answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                private = scope["path"].startswith("/api/") or scope["path"] == "/"
                headers["Cache-Control"] = "no-store" if private else "no-cache"
            await send(message)

        app = self._refusal(scope) or self._authenticate(scope) or self._app
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """Return the answer to a request of another site; None for an allowed request."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self._access.hosts:
            return response(421, "forbidden", "this server does not serve this address")
        if headers.get("origin", f"http://{host}").lower() != f"http://{host}":
            return response(403, "forbidden", "a request of another site is refused")
        # Browsers treat another port of the same host as the same site with the same cookies.
        if _from_elsewhere(headers) and not (_opens(scope) and _is_whole_page(headers)):
            return response(403, "forbidden", "a request of another site is refused")
        if scope["method"] not in _READING and headers.get("x-maisi") != "1":
            return response(403, "forbidden", "the header X-Maisi: 1 is missing")
        return None

    def _authenticate(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to the link or to a request without the cookie; None otherwise."""
        if _opens(scope):
            token = _query(scope)["token"][0]
            once = not self._used and _equal(token, self._access.token_once)
            if not once and not _equal(token, self._access.token):
                return _unauthorized()
            self._used |= once
            elsewhere = _from_elsewhere(Headers(scope=scope))
            answer: Response = HTMLResponse(_GO_ON) if elsewhere else RedirectResponse("/", 303)
            answer.set_cookie(
                self._access.cookie_name,
                self._access.cookie,
                path="/",
                httponly=True,
                samesite="strict",
            )
            return answer
        cookie = Request(scope).cookies.get(self._access.cookie_name, "")
        if not _equal(cookie, self._access.cookie):
            return _unauthorized()
        return None


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"))


def _opens(scope: Scope) -> bool:
    """Return whether a request may be the link."""
    return scope["path"] == "/" and scope["method"] == "GET" and "token" in _query(scope)


def _from_elsewhere(headers: Headers) -> bool:
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _is_whole_page(headers: Headers) -> bool:
    """Return whether the answer replaces a whole page, which the requesting site cannot read."""
    return (
        headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _unauthorized() -> JSONResponse:
    return response(401, "forbidden", "open the link that `maisi studio` has printed")
