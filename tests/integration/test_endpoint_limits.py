"""The metrics endpoint under clients that ask half a question, say nothing, or do not read the answer."""

import resource
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psutil
import pytest
from prometheus_client import CollectorRegistry, Gauge

from tests.integration.test_endpoint import address, certificates, get
from turbo.config.worker import load_worker_config
from turbo.doctor.metrics_port import metrics_port
from turbo.domain.states import Level
from turbo.observability.endpoint import CLOSE_IT, Endpoint, TlsFiles, exposed
from turbo.observability.http_server import Limits

__all__ = ["certificates"]

HALF = b"GET /metrics HTTP/1.1\r\nHost: "
FEW_DESCRIPTORS = 120


@contextmanager
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def connected(port: int, said: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(said)
    return client


def rest(client: socket.socket) -> bytes:
    """What still comes before the server closes the connection."""
    answer = b""
    try:
        while chunk := client.recv(65536):
            answer += chunk
    except ConnectionError:
        pass
    return answer


@contextmanager
def serving(registry: CollectorRegistry | None = None, tls: TlsFiles | None = None, **limits: float) -> Iterator[int]:
    endpoint = Endpoint(registry or CollectorRegistry(), tls=tls, limits=Limits(**limits))  # type: ignore[arg-type]
    endpoint.start(lambda name, error: None)
    assert endpoint._server is not None
    try:
        yield port_of(endpoint.address or "")
    finally:
        begun = time.monotonic()
        endpoint._server.stop()
        assert time.monotonic() - begun < 3


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_half_requests_leave_a_worker_its_descriptors(bench):
    worker = bench.start(drain_seconds=5).listening()
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))
    url = address(worker.log)
    with many_descriptors(), ExitStack() as clients:
        flood, refused = 0, 0
        while flood < 3 * FEW_DESCRIPTORS and refused < 4:  # in a row: then it accepts no more
            client = clients.enter_context(closing(socket.socket()))
            client.settimeout(1)
            with suppress(OSError):
                client.connect(("127.0.0.1", port_of(url)))
                client.sendall(HALF)
                flood, refused = flood + 1, -1
            refused += 1
        bench.insert("in the flood", {})
        bench.wait("in the flood", "completed", 20)
        assert get(f"{url}/healthz") == (200, "ok")
        assert flood > 2 * FEW_DESCRIPTORS
        assert psutil.Process(worker.pid).num_fds() < FEW_DESCRIPTORS - 30
        assert worker.stop() == 0
    assert "Too many open files" not in worker.log


def test_silent_tls_client_stops_neither_page_nor_worker(bench, certificates):
    tls = {"certfile": str(certificates / "server.pem"), "keyfile": str(certificates / "server.key")}
    worker = bench.start(bench.config() | {"metrics": {"port": 0, "tls": tls}}).listening()
    url = address(worker.log)
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with closing(connected(port_of(url))):
        assert get(f"{url}/healthz", trusting) == (200, "ok")
        worker.process.terminate()
        assert worker.process.wait(timeout=10) == 0


def test_slow_clients_are_cut_off_in_time():
    registry = CollectorRegistry()
    page = Gauge("big", "a page that fills every socket buffer", ["n"], registry=registry)
    for n in range(10_000):
        page.labels(f"{n:01000d}")
    with serving(registry, head_seconds=0.3, answer_seconds=0.3) as port:
        half, silent = connected(port, HALF), connected(port)
        with closing(half), closing(silent):
            assert rest(half) == rest(silent) == b""
        with closing(connected(port, b"GET /metrics HTTP/1.1\r\n\r\n")) as lazy:
            assert lazy.recv(10) == b"HTTP/1.1 2"
            time.sleep(0.6)  # the client's laziness is the fault
            assert 0 < len(rest(lazy)) < 10_000_000  # cut off


def test_drip_of_bytes_does_not_prolong_a_request():
    with serving(head_seconds=0.4) as port, closing(connected(port, b"GET / HTTP/1.1\r\n")) as client:
        begun = time.monotonic()
        with suppress(OSError):
            while time.monotonic() - begun < 20:
                client.sendall(b"A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - begun < 10


def test_oldest_connection_gives_way_to_a_new_one(certificates):
    tls = TlsFiles(str(certificates / "server.pem"), str(certificates / "server.key"))
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with serving(tls=tls, connections=3, head_seconds=60, grace_seconds=0.05) as port, ExitStack() as stack:
        silent = [stack.enter_context(closing(connected(port))) for _ in range(10)]
        assert get(f"https://127.0.0.1:{port}/healthz", trusting) == (200, "ok")
        assert [rest(client) for client in silent[:7]] == [b""] * 7


REQUESTS = {
    "long line": (b"GET /" + b"a" * 20_000, b"431"),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000, b"431"),
    "no request": (b"\x16\x03\x01 nonsense\r\n\r\n", b"400"),
    "bad target": (b"GET http://[ HTTP/1.1\r\n\r\n", b"400"),
    "other version": (b"GET / HTTP/2\r\n\r\n", b"505"),
    "header without a name": (b"GET /healthz HTTP/1.1\r\n: x\r\n y\r\n\r\n", b"200"),
    "101 headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", b"400"),
    "post with a body": (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"405"),
    "bare line feeds": (b"GET /healthz HTTP/1.0\n\n", b"200"),
    "two at once": (b"GET /healthz HTTP/1.1\r\n\r\n" * 2, b"200"),
}


def test_any_request_gets_one_answer():
    answers = {}
    with serving() as port:
        for name, (said, _) in REQUESTS.items():
            with closing(connected(port, said)) as client:
                answers[name] = rest(client)
        with closing(connected(port, b"HEAD /healthz HTTP/1.1\r\n\r\n")) as client:
            assert rest(client).endswith(b"\r\n\r\n")
    assert {name: answer.split()[1] for name, answer in answers.items()} == {n: s for n, (_, s) in REQUESTS.items()}
    assert {answer.count(b"HTTP/1.1") for answer in answers.values()} == {1}


def test_odd_format_gets_the_page_and_fills_no_log(caplog):
    """prometheus-client compares the version in `Accept` with a number, whatever it is."""
    registry = CollectorRegistry()
    Gauge("one", "for the page", registry=registry).set(1)
    request = b"GET /metrics HTTP/1.1\r\nAccept: text/plain; version=..q=1.0.0q=x\r\n\r\n"
    with serving(registry) as port, closing(connected(port, request)) as client:
        answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"\none 1.0\n" in answer
    assert not caplog.records


def test_pages_that_fail_are_logged_once_a_minute(caplog):
    class Broken:
        def collect(self) -> None:
            raise RuntimeError("of a collector")

    registry = CollectorRegistry(auto_describe=False)
    registry._collector_to_names[Broken()] = []  # type: ignore[index]
    with serving(registry) as port:
        for _ in range(3):
            with closing(connected(port, b"GET /metrics HTTP/1.1\r\n\r\n")) as client:
                assert b" 500 " in rest(client)
    assert [record.message for record in caplog.records] == ["a page of the metrics endpoint failed"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "alpha.example"])
def test_open_address_is_exposed_without_client_ca(host):
    assert "can read the metrics page" in (exposed(host, None) or "")
    assert exposed(host, "ca.pem") is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_address_is_not_exposed(host):
    assert exposed(host, None) is None


def test_open_endpoint_is_warned_of_everywhere(bench, shell):
    config = bench.config() | {"metrics": {"host": "0.0.0.0", "port": 0}}
    worker = bench.start(config, dsn="postgresql://postgres@127.0.0.1:1/postgres")
    worker.said("metrics.host is 0.0.0.0: every machine")
    file = next(bench.path.glob("*.yaml"))
    checked = shell("config", "check", str(file))
    assert "metrics.host is 0.0.0.0" in checked.err
    found = metrics_port(load_worker_config(file).metrics, [], "here")
    assert (found.level, found.do) == (Level.WARN, CLOSE_IT)
