"""Who may open the page and change something by it: sign-in, hosts, other sites, headers."""

import http.client
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.database import migrated_database
from tests.support.open_questions import PUSH, ask
from tests.support.shell import Shell
from tests.support.web import Web, serving


@pytest.fixture(scope="module")
def dsn_of_module() -> Iterator[str]:
    with migrated_database() as dsn:
        yield dsn


@pytest.fixture(scope="module")
def web(dsn_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(dsn_of_module, Path(tmp_path_factory.mktemp("web"))) as running:
        yield running


PAGES = ("/", "/tasks", "/new", "/asked/x", "/tasks/x", "/events/front", "/count")
ACTIONS = (
    "/answer",
    "/approve",
    "/deny",
    "/reply",
    "/tell",
    "/cancel",
    "/retry",
    "/batch",
    "/submit",
    "/pause",
    "/resume",
)


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("cookie", ["", "turbo-9480=x", "turbo-{port}=" + "a" * 43, "turbo-{port}=../../etc/passwd"])
def test_page_without_sign_in_is_401(web: Web, path: str, cookie: str):
    answer = web.get(path, cookie=cookie.format(port=web.port))
    assert answer.status == 401
    assert "turbo web --link" in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ACTIONS)
def test_action_without_sign_in_is_401(web: Web, path: str):
    assert web.post(path, {"task": "x"}, cookie="").status == 401


def test_half_a_request_of_a_stranger_is_closed(web: Web):
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as half:
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0")
        assert half.recv(1000) == b""
    assert web.get("/healthz", cookie="").status == 200


def test_health_needs_no_sign_in(web: Web):
    answer = web.get("/healthz", cookie="")
    assert (answer.status, answer.text) == (200, "ok\n")


def test_link_signs_one_browser_in_once(web: Web):
    key = web.application.site.sign_ins.new_link()
    first = web.post("/sign-in", {"key": key}, cookie="")
    assert first.status == 303
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie, "plain HTTP"
    assert web.get("/tasks", cookie=cookie.split(";")[0]).status == 200
    again = web.post("/sign-in", {"key": key}, cookie="")
    assert again.status == 401
    assert "used already" in again.text
    assert web.post("/sign-in", {"key": "wrong"}, cookie="").status == 401
    assert web.post("/sign-in", {}, cookie="").status == 401


def test_sign_out_ends_the_session_on_the_server(web: Web):
    cookie = web.sign_in()
    assert web.get("/tasks", cookie=cookie).status == 200
    assert web.post("/sign-out", cookie=cookie).status == 303
    assert web.get("/tasks", cookie=cookie).status == 401


def test_secrets_are_on_disk_as_hashes_for_the_owner(web: Web):
    key = web.application.site.sign_ins.new_link()
    root = web.application.site.settings.directory
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files
    secrets = (key, web.cookie.partition("=")[2])
    for path in files:
        assert not any(secret in path.name or secret in path.read_text() for secret in secrets)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "links").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:{port}", "[::", ""],
)
def test_foreign_host_is_421(web: Web, host: str):
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as connection:
        named = host.format(port=web.port)
        request = f"GET /tasks HTTP/1.1\r\nHost: {named}\r\nCookie: {web.cookie}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.makefile("rb").readline().split()[1] == b"421"


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}"])
def test_own_host_is_served(web: Web, host: str):
    assert web.get("/tasks", Host=host.format(port=web.port)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Origin": "", "Sec_Fetch_Site": "none"},
        {"Origin": "http://127.0.0.1:1"},
    ],
    ids=str,
)
def test_request_from_another_site_changes_nothing(web: Web, headers: dict[str, str]):
    refused = web.post("/submit", {"text": "planted"}, **headers)
    assert refused.status == 403
    assert "another site" in refused.text
    assert "planted" not in web.get("/tasks").text


def test_request_of_the_page_itself_counts(web: Web):
    assert web.post("/submit", {"text": "wanted", "id": "by-hand"}, Sec_Fetch_Site="same-origin").status == 303
    assert "wanted" in web.get("/tasks").text


def test_every_answer_has_the_headers(web: Web):
    for path, cookie in (("/", None), ("/tasks", ""), ("/static/turbo.js", ""), ("/healthz", ""), ("/nothing", None)):
        headers = {name.lower(): value for name, value in web.get(path, cookie=cookie).headers.items()}
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store" or path.startswith("/static")
        assert "server" not in headers


def test_read_only_page_changes_nothing(dsn: str, tmp_path: Path):
    ask(dsn, "deploy", PUSH)
    with serving(dsn, tmp_path, read_only=True) as web:
        for path in ACTIONS:
            answer = web.post(path, {"task": "deploy"})
            assert answer.status == 403
            assert "read-only" in answer.text
        front = web.get("/").text
        assert "deploy" in front
        assert "<button" not in front.partition("<main")[2].partition("<dialog")[0]


def test_https_cookie_is_secure_and_for_one_host(dsn: str, tmp_path: Path):
    with serving(dsn, tmp_path, url="https://turbo.example.com") as web:
        assert web.cookie.startswith("__Host-turbo=")
        at_proxy = {"Host": "turbo.example.com", "Origin": "https://turbo.example.com"}
        key = web.application.site.sign_ins.new_link()
        answer = web.post("/sign-in", {"key": key}, cookie="", **at_proxy)
        assert "Secure" in answer.headers["set-cookie"]
        assert web.get("/tasks", Host="turbo.example.com").status == 200
        assert web.get("/tasks", Host="turbo.example.org").status == 421
        assert "max-age" in web.get("/tasks").headers["strict-transport-security"]


def test_user_header_counts_only_from_a_trusted_proxy(dsn: str, tmp_path: Path):
    named = {"X_Forwarded_User": "alice"}
    with serving(dsn, tmp_path / "1") as web:
        assert "alice" not in web.get("/new", **named).text
    with serving(dsn, tmp_path / "2", trusted_proxies=["10.0.0.0/8"]) as web:
        assert "alice" not in web.get("/new", **named).text
    with serving(dsn, tmp_path / "3", trusted_proxies=["127.0.0.1"]) as web:
        assert "alice" in web.get("/new", **named).text
        assert web.get("/new", cookie="", **named).status == 401, "a name is no sign-in"


def test_oversized_and_broken_requests_are_one_clear_error(web: Web):
    assert web.post("/tell", {"task": "x", "text": "y" * 1_000}, Content_Length="99999999999").status == 400
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
    connection.putrequest("GET", "/", skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{web.port}")
    connection.putheader("Cookie", 'turbo="\x01; =; ;;')
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()
    for path in (
        "/tasks?status=odd",
        "/tasks?since=never+ever",
        "/tasks?after=!!",
        "/tasks?after=WzFd",
        "/tasks?text=%00",
    ):
        answer = web.get(path)
        assert answer.status == 400, path
        assert "Traceback" not in answer.text


def test_command_prints_a_link_and_another_one(shell: Shell, tmp_path: Path):
    first, second = (shell("web", "--link", "--port", "1234").out.strip() for _ in range(2))
    assert first.startswith("http://127.0.0.1:1234/sign-in#")
    assert first != second
    shell("web", "--link", "--no-link").one_line(2, "give one of them")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        shell("web", "--port", str(taken.getsockname()[1])).one_line(1, "--port takes another one")
