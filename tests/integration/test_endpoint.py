"""/healthz and /readyz beside /metrics, while the database is away, while a worker drains, and over TLS."""

import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from tests.support.requirements import require
from tests.support.waiting import until
from turbo.observability.endpoint import Endpoint, TlsFiles


def get(url: str, context: ssl.SSLContext | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5, context=context) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()


def address(log: str) -> str:
    return log.split("metrics on ")[1].split("/metrics")[0]


def test_worker_without_a_database_is_healthy_and_not_ready(bench):
    worker = bench.start(dsn="postgresql://postgres@127.0.0.1:1/postgres")
    worker.said("waiting for the database")
    url = address(worker.log)
    assert get(f"{url}/healthz") == (200, "ok")
    assert get(f"{url}/readyz") == (503, "waiting for the database at 127.0.0.1:1/postgres")
    assert get(f"{url}/metrics")[1].count("turbo_listener_up 0.0") == 1
    assert get(f"{url}/nothing") == (404, "try /metrics, /healthz or /readyz")


def test_worker_is_ready_until_it_drains(bench):
    worker = bench.start(name="w", drain_seconds=20).listening()
    url = address(worker.log)
    until(lambda: get(f"{url}/readyz") == (200, "ok"))
    bench.insert("slow", {"seconds": 3})
    bench.wait("slow", "running")
    worker.process.terminate()
    worker.said("draining")
    assert get(f"{url}/readyz") == (503, "draining")
    assert get(f"{url}/healthz") == (200, "ok")
    assert worker.stop() == 0


def test_failed_heartbeat_is_reported(bench):
    worker = bench.start().listening()
    url = address(worker.log)
    until(lambda: get(f"{url}/readyz") == (200, "ok"))
    with psycopg.connect(bench.dsn) as db:
        db.execute("lock table agent_workers in exclusive mode")
        status, text = until(lambda: (lambda r: r if r[0] == 503 else None)(get(f"{url}/readyz")))
        assert (status, text.split(" for ")[0]) == (503, "the database has taken no heartbeat")
        assert get(f"{url}/metrics")[0] == 200
    until(lambda: get(f"{url}/readyz") == (200, "ok"), 30)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A CA of the test's own, a server's certificate for 127.0.0.1 and a client's."""
    openssl = require("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=tmp_path, check=True, capture_output=True)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        "-subj", "/CN=a test CA")  # fmt: skip
    (tmp_path / "names").write_text("subjectAltName = IP:127.0.0.1\n")
    for name in ("server", "client"):
        run(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return tmp_path


async def test_tls_requires_a_client_certificate_when_configured(certificates):
    files = TlsFiles(*(str(certificates / f) for f in ("server.pem", "server.key", "ca.pem")))
    endpoint = Endpoint(CollectorRegistry(), tls=files)
    endpoint.start(lambda name, error: None)
    port = (endpoint.address or "").rpartition(":")[2]
    try:
        trusting = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            get(f"https://127.0.0.1:{port}/healthz", trusting)
        trusting.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert get(f"https://127.0.0.1:{port}/healthz", trusting) == (200, "ok")
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(f"http://127.0.0.1:{port}/healthz")
    finally:
        await endpoint.stop()


async def test_renewed_certificate_is_used_without_a_restart(certificates, tmp_path):
    """The client's pair stands in for the new one: another key, signed by the same CA."""
    cert, key = tmp_path / "now.pem", tmp_path / "now.key"

    def install(part: Path, source: str) -> None:
        part.write_bytes((certificates / source).read_bytes())

    def served(port: int) -> str:
        return ssl.get_server_certificate(("127.0.0.1", port)).strip()

    def pem(name: str) -> str:
        return (certificates / name).read_text().strip()

    install(cert, "server.pem")
    install(key, "server.key")
    endpoint = Endpoint(CollectorRegistry(), tls=TlsFiles(str(cert), str(key)))
    endpoint.start(lambda name, error: None)
    port = int((endpoint.address or "").rpartition(":")[2])
    try:
        assert served(port) == pem("server.pem")
        install(cert, "client.pem")  # half of a rotation: the key is not its own
        assert "the old ones are" in endpoint.reload()
        assert served(port) == pem("server.pem")
        install(key, "client.key")
        assert endpoint.reload() == f"read {cert} again"
        assert served(port) == pem("client.pem")
    finally:
        await endpoint.stop()
    plain = Endpoint(CollectorRegistry())
    assert plain.reload() == ""


async def test_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: .*; use port 0 for a free one"):
            Endpoint(CollectorRegistry(), port=port).start(lambda name, error: None)


def test_taken_port_ends_the_worker_without_asking_the_database(bench):
    """It never registered, so there is nothing to say goodbye to: a database that does not answer must not hold it."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        config = bench.config() | {"metrics": {"port": taken.getsockname()[1]}}
        worker = bench.start(config, dsn=f"postgresql://postgres@127.0.0.1:{silent.getsockname()[1]}/postgres")
        assert worker.process.wait(timeout=20) == 1
        assert "the metrics endpoint cannot listen" in worker.log
        with pytest.raises(BlockingIOError):
            silent.accept()
