"""`turbo mcp --http`: on loopback, with a token, for nobody else."""

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.mcp_clients import Caller
from tests.support.prefork import TURBO

TOKEN = "a-token-of-thirty-two-characters"


@dataclass
class Serving:
    url: str
    token: str
    lines: list[str]


@contextlib.asynccontextmanager
async def serving(
    dsn: str, home: str, token: str | None = TOKEN, descriptors: int | None = None
) -> AsyncIterator[Serving]:
    env = {"TURBO_DSN": dsn, "PATH": "/usr/bin:/bin", "HOME": home, **({"TURBO_MCP_TOKEN": token} if token else {})}
    server = await asyncio.create_subprocess_exec(
        *(["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"] if descriptors else []),
        *(sys.executable, str(TURBO), "mcp", "--http", "--port", "0"),
        env=env,
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    lines = []
    try:
        async with asyncio.timeout(30):
            while not lines or "listening" not in lines[-1]:
                lines.append((await server.stderr.readline()).decode())
                assert lines[-1], lines
        url = re.findall(r"http://\S+", lines[-1])[0]
        shown = re.findall(r"the token is (\S+)", "".join(lines))
        yield Serving(url, token or shown[0], lines)
    finally:
        server.terminate()
        await server.wait()


@contextlib.asynccontextmanager
async def calling(url: str, token: str) -> AsyncIterator[Caller]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield Caller(client)


@pytest.mark.parametrize("token", [TOKEN, None])
async def test_client_with_the_token_hands_over_work(db, dsn, tmp_path, token):
    async with serving(dsn, str(tmp_path), token) as server, calling(server.url, server.token) as call:
        await call("submit", text="x", id="a")
        assert db.execute("select task_id from agent_tasks").fetchall() == [("a",)]
        assert token is None or token not in "".join(server.lines), "the caller's own token is printed nowhere"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": TOKEN}, 401),
        ({"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}, 421),
        ({"Authorization": f"Bearer {TOKEN}", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_request_of_a_stranger_is_refused(db, dsn, tmp_path, headers, status):
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "submit", "arguments": {"text": "x"}}}
    async with serving(dsn, str(tmp_path)) as server, httpx2.AsyncClient() as http:
        accepts = {"Accept": "application/json, text/event-stream"}
        answer = await http.post(server.url, json=call, headers={**accepts, **headers})
        assert answer.status_code == status
        assert db.execute("select count(*) from agent_tasks").fetchone() == (0,)


async def test_request_of_ten_megabytes_is_refused(db, dsn, tmp_path):
    async with serving(dsn, str(tmp_path)) as server:
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient() as http:
            answer = await http.post(server.url, json={"text": "x" * 10_000_000}, headers=headers)
            assert answer.status_code == 413
        async with calling(server.url, TOKEN) as call:
            await call("submit", text="x")
        assert db.execute("select count(*) from agent_tasks").fetchone() == (1,)


async def test_half_requests_of_strangers_leave_room_for_others(dsn, tmp_path):
    async with serving(dsn, str(tmp_path), descriptors=200) as server:
        port = int(server.url.rsplit(":", 1)[1].split("/")[0])
        half = []
        try:
            for _ in range(300):  # one whole connection each, more than the process has descriptors
                half.append(await asyncio.open_connection("127.0.0.1", port))
                half[-1][1].write(b"POST /mcp HTTP/1.1\r\nHost: 127.0")
            async with calling(server.url, server.token) as call:
                assert (await call("status"))["queues"] == []
            async with asyncio.timeout(30):
                assert await half[-1][0].read() == b"", "and in a few seconds each of them is closed"
        finally:
            for _, writer in half:
                writer.close()


def test_port_that_is_taken_is_named(shell):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shell("mcp", "--http", "--port", str(port), TURBO_MCP_TOKEN=TOKEN).one_line(1, f"127.0.0.1:{port}")


@pytest.mark.parametrize("token", ["", "short", "with a blank in the middle", "ünsichtbar-aber-lang-genug"])
def test_token_that_can_be_guessed_is_refused(shell, token):
    shell("mcp", "--http", TURBO_MCP_TOKEN=token).one_line(
        2, "the token in TURBO_MCP_TOKEN must be at least 16 visible ASCII"
    )


def test_answers_contradict_read_only(shell):
    shell("mcp", "--read-only", "--allow-answer").one_line(2, "an answer changes a task")


def test_missing_package_is_named_with_its_extra(dsn, tmp_path):
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")
    env = {"TURBO_DSN": dsn, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, TURBO, "mcp"], env=env, capture_output=True, text=True, check=False)
    said = "turbo mcp: the package mcp is missing: pip install 'agent-turbo[mcp]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
