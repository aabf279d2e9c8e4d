"""The metrics port: free, or used by a turbo worker; and who can read it."""

import errno
import http.client
import socket
import ssl
from collections.abc import Iterable

from turbo.config.worker import MetricsSection
from turbo.doctor.session import SessionRow
from turbo.domain.finding import Finding, fail, ok, warn
from turbo.domain.states import Level
from turbo.observability.endpoint import CLOSE_IT, exposed

ASK_SECONDS = 3.0


def metrics_port(settings: MetricsSection, rows: Iterable[SessionRow], host: str) -> Finding:
    """`rows` are the live workers. One on this host with this port counts as ours, whatever it answers."""
    found = _port(settings, rows, host)
    open_to = exposed(settings.host, settings.tls and settings.tls.client_ca)
    return warn(f"{found.what}; {open_to}", CLOSE_IT) if found.level is Level.OK and open_to else found


def _port(settings: MetricsSection, rows: Iterable[SessionRow], host: str) -> Finding:
    if settings.port == 0:
        return ok("the worker will take any free port")
    where = f"{settings.host}:{settings.port}"
    holder = _holder(settings)
    if holder is None:
        return ok(f"{where} is free")
    if holder != errno.EADDRINUSE:
        why = {errno.EACCES: "this user may not use it", errno.EADDRNOTAVAIL: "this machine has no such address"}
        return fail(
            f"nothing can listen on {where}: {why.get(holder, errno.errorcode.get(holder, ''))}",
            "set metrics.host and metrics.port",
        )
    mine = next(
        (r for r in rows if r["host"] == host and str(r["metrics_address"]).endswith(f":{settings.port}")), None
    )
    if mine is not None:
        return ok(f"{where} is used by worker {mine['worker_id']}")
    if _is_turbo(settings):
        return ok(f"{where} is used by a turbo worker")
    return fail(
        f"{where} is used by another program: the worker will not start",
        "set another metrics.port, or 0 for a free one",
    )


def _holder(settings: MetricsSection) -> int | None:
    """None if a server could listen there now, else the errno."""
    try:
        family = socket.getaddrinfo(settings.host or None, settings.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
            probe.listen(1)
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as error:
        return error.errno or errno.EADDRINUSE
    return None


def _is_turbo(settings: MetricsSection) -> bool:
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104
    connection: http.client.HTTPConnection
    if settings.tls is None:
        connection = http.client.HTTPConnection(host, settings.port, timeout=ASK_SECONDS)
    else:  # only identifies the program, so the certificate is not checked
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, settings.port, timeout=ASK_SECONDS, context=context)
    try:
        connection.request("GET", "/metrics")
        return b"turbo_build_info" in connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
