"""Only the page itself, in the browser that opened its link, is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from maisi_client import InvalidRequest
from maisi_client._studio.backend import Backend, Target
from maisi_client._studio.serving import hosts, serve

from tests.client.studio.browser import Browser, studio

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; worker-src 'self' blob:; font-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


@pytest.fixture(scope="module")
def page():
    with studio("127.0.0.1:9") as browser:
        yield browser


def test_the_link_sets_a_cookie_for_this_page_alone(page: Browser) -> None:
    status, headers, _ = page.raw("GET", f"/?token={page.access.token}", {})
    assert status == 303 and headers["location"] == "/"
    name, *attributes = headers["set-cookie"].split("; ")
    assert name == page.cookie and page.access.token not in name
    assert {"HttpOnly", "Path=/"} <= set(attributes)
    assert "samesite=strict" in map(str.lower, attributes)
    assert page.raw("GET", "/", {"Cookie": page.cookie})[0] == 200


@pytest.mark.parametrize("path", ["/", "/static/index.html", "/api/server", "/api/events", "/no"])
@pytest.mark.parametrize("cookie", ["", "maisi_studio_1=x", "{name}=", "{name}=wröng", "other=1"])
def test_nothing_without_the_cookie(page: Browser, path: str, cookie: str) -> None:
    value = cookie.format(name=page.access.cookie_name).encode().decode("latin-1")
    status, headers, body = page.raw("GET", path, {"Cookie": value})
    assert status == 401 and "set-cookie" not in headers
    assert json.loads(body)["error"]["kind"] == "forbidden"


@pytest.mark.parametrize("query", ["token=", "token=%ff", "token=wrong", "token=wrong&token={}"])
def test_another_token_opens_nothing(page: Browser, query: str) -> None:
    status, headers, _ = page.raw("GET", "/?" + query.format(page.access.token), {})
    assert status == 401 and "set-cookie" not in headers


def test_the_link_for_the_browser_opens_the_page_once(page: Browser) -> None:
    path = page.access.link_once.partition(page.host)[2]
    assert [page.raw("GET", path, {})[0] for _ in range(2)] == [303, 401]
    assert page.raw("GET", page.access.link.partition(page.host)[2], {})[0] == 303


def test_the_token_opens_the_page_and_nothing_else(page: Browser) -> None:
    assert page.raw("GET", f"/api/server?token={page.access.token}", {})[0] == 401
    assert page.raw("POST", f"/?token={page.access.token}", {"X-Maisi": "1"})[0] == 401


def test_the_host_is_the_one_that_is_served(page: Browser) -> None:
    port = page.host.rpartition(":")[2]
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", page.host):
        assert page.ask("GET", "/", Host=host)[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert page.error("GET", "/api/pictures", Host=host)[0] == 421


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_origins_are_refused(page: Browser, method: str) -> None:
    port = page.host.rpartition(":")[2]
    others = ["null", "http://evil.example", f"https://{page.host}", f"http://localhost:{port}", ""]
    for origin in others:
        assert page.error(method, "/api/pictures", Origin=origin)[0] == 403
    for site in ("cross-site", "same-site", "anything"):
        assert page.error(method, "/api/pictures", Sec_Fetch_Site=site)[0] == 403
    same = {"Origin": f"http://{page.host}", "Sec_Fetch_Site": "same-origin"}
    assert page.ask(method, "/api/pictures", **same)[0] != 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_the_link_of_another_site_opens_a_whole_page_alone(page: Browser, site: str) -> None:
    whole = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    link = f"/?token={page.access.token}"
    status, headers, body = page.raw("GET", link, whole)
    assert status == 200 and headers["set-cookie"].startswith(page.cookie)
    assert page.access.token.encode() not in body and b"url=/" in body
    assert headers["content-security-policy"] == CSP and headers["cache-control"] == "no-store"
    assert page.raw("GET", "/?token=wrong", whole)[0] == 401
    cookie = {"Cookie": page.cookie}
    others = [
        ("GET", link, {"Sec-Fetch-Site": site}),
        ("GET", link, {**whole, "Sec-Fetch-Dest": "iframe"}),
        ("GET", link, {**whole, "Sec-Fetch-Mode": "no-cors"}),
        ("GET", link, {**whole, "Origin": "http://evil.example"}),
        ("POST", link, {**whole, "X-Maisi": "1"}),
        ("GET", "/", {**whole, **cookie}),
        ("GET", f"/api/pictures?token={page.access.token}", {**whole, **cookie}),
    ]
    for method, path, sent in others:
        status, headers, _ = page.raw(method, path, sent)
        assert status == 403 and "set-cookie" not in headers, (method, path, sent)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS"])
def test_what_changes_something_needs_the_header(page: Browser, method: str) -> None:
    for headers in ({}, {"X-Maisi": "0"}):
        status, _, body = page.raw(method, "/api/jobs", {"Cookie": page.cookie, **headers})
        assert status == 403 and b"X-Maisi" in body


@pytest.mark.parametrize(
    ("path", "headers", "cache"),
    [
        ("/", {}, "no-store"),
        ("/api/pictures", {}, "no-store"),
        ("/static/index.html", {}, "no-cache"),
        ("/no", {}, "no-cache"),
        ("/api/pictures", {"Origin": "null"}, "no-store"),
    ],
)
def test_every_answer_has_the_headers(
    page: Browser, path: str, headers: dict[str, str], cache: str
) -> None:
    _, answer, _ = page.raw("GET", path, {**page.headers, **headers})
    assert answer["content-security-policy"] == CSP
    assert answer["x-content-type-options"] == "nosniff"
    assert answer["referrer-policy"] == "no-referrer"
    assert answer["cross-origin-opener-policy"] == "same-origin"
    assert answer["cross-origin-resource-policy"] == "same-origin"
    assert answer["cache-control"] == cache
    assert "access-control-allow-origin" not in answer and "server" not in answer


def test_an_answer_of_500_has_them_too(page: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Backend, "json", fail)
    status, headers, body = page.raw("GET", "/api/server", page.headers)
    assert status == 500 and headers["content-security-policy"] == CSP
    assert json.loads(body)["error"]["kind"] == "internal" and b"fault" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static//etc/passwd",
        "/api/pictures/../../x.nii.gz",
        "/api/pictures/..%2f..%2fetc%2fpasswd.nii.gz",
        "/api/pictures/0.nii.gz",
        "/api/pictures/0/report.json",
    ],
)
def test_what_is_asked_for_is_never_a_path(page: Browser, path: str) -> None:
    status, sentence = page.error("GET", path)
    assert status == 404 and "/" not in sentence


def test_other_methods_and_addresses_are_one_sentence(page: Browser) -> None:
    assert page.error("PUT", "/api/pictures") == (405, "PUT of this address is not offered")
    assert page.error("GET", "/nothing") == (404, "GET of this address is not offered")


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("0.0.0.0", 0, "host is '0.0.0.0', which means every address"),
        ("::", 0, "host is '::', which means every address"),
        ("192.0.2.1", 0, "192.0.2.1:0 cannot be served"),
        ("127.0.0.1", 70000, "port is 70000; 0 to 65535 are allowed"),
        ("no.invalid", 0, "no.invalid:0 cannot be served"),
    ],
)
def test_an_address_that_cannot_be_served(host: str, port: int, sentence: str) -> None:
    links: list[Any] = []
    with pytest.raises(InvalidRequest, match=sentence):
        serve(Target("127.0.0.1:9"), host, port, lambda *both: links.append(both))
    assert links == []


def test_localhost_is_a_name_of_loopback_alone() -> None:
    assert hosts("127.0.0.1", 81) == ("127.0.0.1:81", "localhost:81")
    assert hosts("::1", 81) == ("[::1]:81", "localhost:81")
    assert hosts("localhost", 80) == ("localhost:80", "localhost")  # which browsers send
    assert hosts("Machine.example", 81) == ("machine.example:81",)
