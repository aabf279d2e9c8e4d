"""`turbo mcp`: a door for other agents, by the Model Context Protocol."""

import os
import re
import secrets
from typing import Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn

VARIABLE = "TURBO_MCP_TOKEN"
SHORTEST_TOKEN = 16


def mcp(
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer no tool that changes anything.")] = False,
    allow_answer: Annotated[
        bool, typer.Option("--allow-answer", help="Let the client answer what agents ask people.")
    ] = False,
    allow_approve: Annotated[
        bool, typer.Option("--allow-approve", help="Let the client decide approvals, and release held tasks.")
    ] = False,
    http: Annotated[
        bool,
        typer.Option("--http", help="Serve HTTP on 127.0.0.1, with a token, in place of standard input and output."),
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of --http; 0: any that is free.")] = 9481,
    dsn: Dsn = None,
) -> None:
    """Let another agent use the fleet (Model Context Protocol).

    The client starts this command itself, and gets the tools submit, reply, tell, status, wait, result, diff, cancel
    and questions. It may do what the database role of the connection may do. With --http, the token is TURBO_MCP_TOKEN; without
    that variable a new one is printed.

    \b
    Examples:
      claude mcp add turbo -- turbo mcp
      claude mcp add turbo -- turbo mcp --read-only
      turbo mcp --http --port 9481
    """
    if read_only and (allow_answer or allow_approve):
        raise typer.BadParameter("--read-only with --allow-answer or --allow-approve: an answer changes a task")
    try:
        from turbo.mcp.server import build, serve_http, serve_stdio
        from turbo.mcp.tools import Rights
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "turbo":
            raise
        raise ModuleNotFoundError(f"the package {error.name} is missing: pip install 'agent-turbo[mcp]'") from None
    server = build(dsn or os.environ.get("TURBO_DSN", ""), Rights(not read_only, allow_answer, allow_approve))
    if not http:
        serve_stdio(server)
        return
    import asyncio
    import socket

    token = _token()
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OSError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}; --port takes another one") from None
    output.notice(f"turbo mcp: listening on http://127.0.0.1:{listening.getsockname()[1]}/mcp")
    asyncio.run(serve_http(server, listening, token))


def _token() -> str:
    """Raises BadParameter for one that can be guessed, or is no header."""
    given = os.environ.get(VARIABLE)
    if given is None:
        made = secrets.token_urlsafe(32)
        output.notice(f"turbo mcp: the token is {made} (set {VARIABLE} for one of your own)")
        return made
    if len(given) < SHORTEST_TOKEN or not re.fullmatch(r"[!-~]+", given):
        raise typer.BadParameter(
            f"the token in {VARIABLE} must be at least {SHORTEST_TOKEN} visible ASCII characters, without blanks"
        )
    return given
