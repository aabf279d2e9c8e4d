"""A client of `turbo mcp`: in this process, or of the command as another agent starts it."""

import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from mcp import StdioServerParameters
from mcp.client import Client
from mcp_types import TextContent

from tests.support.prefork import TURBO
from turbo.mcp.server import build
from turbo.mcp.tools import Rights


@dataclass
class Caller:
    """Calls tools. `told`: what progress notifications said."""

    client: Client

    async def __call__(self, tool: str, **arguments: Any) -> Any:
        """The answer of a tool. Raises AssertionError with the text of an error."""
        result = await self.client.call_tool(tool, arguments)
        content = result.content[0]
        assert isinstance(content, TextContent)
        assert not result.is_error, content.text
        assert json.loads(content.text) == result.structured_content
        return result.structured_content

    async def refused(self, tool: str, **arguments: Any) -> str:
        """The text of the error."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error
        content = result.content[0]
        assert isinstance(content, TextContent)
        return content.text


@contextlib.asynccontextmanager
async def inside(dsn: str, rights: Rights | None = None) -> AsyncIterator[Caller]:
    async with Client(build(dsn, rights or Rights())) as client:
        yield Caller(client)


@contextlib.asynccontextmanager
async def started(dsn: str, *options: str) -> AsyncIterator[Caller]:
    """The command, on standard input and output."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "TURBO_DSN": dsn}
    async with Client(StdioServerParameters(command=str(TURBO), args=["mcp", *options], env=env)) as client:
        yield Caller(client)
