"""JSON-RPC 2.0 as the protocol uses it: one object a line. What an agent writes is read leniently, and bounded.

{"jsonrpc":"2.0","id":3,"method":"session/prompt","params":{…}}      a request, of either side
{"jsonrpc":"2.0","method":"session/update","params":{…}}             a notification: it has no id
{"jsonrpc":"2.0","id":3,"result":{…}}  or  {…,"error":{"code":-32603,"message":"…","data":{…}}}
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from turbo.executors.agent import fields
from turbo.executors.agent.json_line import parsed

AUTH_REQUIRED, NOT_FOUND = -32000, -32002
INVALID, NO_METHOD = -32600, -32601

HEAD_BYTES = 4096
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15}|"[\w.:-]{1,200}")')
_METHOD = re.compile(rb'"method"\s*:\s*"')
_PERMISSION = b"session/request_permission"
ERROR_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class RpcError:
    """What the other side answered in place of a result. `at`: the method that was refused."""

    code: int
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""
    at: str = ""

    @property
    def text(self) -> str:
        """For people, and for the phrases of a profile: message and data."""
        return ": ".join(one for one in (self.message, self.detail) if one)[:ERROR_CHARACTERS]


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """The agent wants an answer. `id` is sent back as it came."""

    id: Any
    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgentNotice:
    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """To a request of turbo's."""

    id: Any
    result: Mapping[str, Any]
    error: RpcError | None = None


@dataclass(frozen=True, slots=True)
class UnreadLine:
    """A line that is too long, or nested too deep, to be read. `id`: of a request or an answer, where it shows."""

    id: Any = None
    is_request: bool = False


AgentMessage = AgentRequest | AgentNotice | AgentAnswer | UnreadLine


def read(line: bytes, cut: bool = False) -> AgentMessage | None:
    """One line of stdout; None: it is no message. Never raises."""
    if not line.strip():
        return None
    message = parsed(line, cut, control=_PERMISSION in line[:HEAD_BYTES])
    if message is None:
        return _unreadable(line)
    method, params = fields.text(message, "method"), fields.object_of(message, "params")
    if method is not None:
        return AgentRequest(message["id"], method, params) if "id" in message else AgentNotice(method, params)
    if "id" not in message or not ("result" in message or "error" in message):
        return None
    error = message.get("error")
    return AgentAnswer(message["id"], fields.object_of(message, "result"), None if error is None else _error(error))


def _error(error: object) -> RpcError:
    told = error if isinstance(error, dict) else {"message": str(error)[:ERROR_CHARACTERS]}
    code, data = told.get("code"), told.get("data")
    return RpcError(
        code if isinstance(code, int) and not isinstance(code, bool) else 0,
        (fields.text(told, "message") or "")[:ERROR_CHARACTERS],
        data if isinstance(data, dict) else {},
        "" if data is None else _shown(data),
    )


def _shown(data: object) -> str:
    if isinstance(data, str):
        return data[:ERROR_CHARACTERS]
    try:
        return json.dumps(data, ensure_ascii=False)[:ERROR_CHARACTERS]
    except (ValueError, RecursionError):
        return ""


def _unreadable(line: bytes) -> UnreadLine | None:
    head = line[:HEAD_BYTES]
    if b'"jsonrpc"' not in head and b'"method"' not in head:
        return None
    found = _ID.search(head)
    return UnreadLine(json.loads(found[1]) if found is not None else None, _METHOD.search(head) is not None)


def request(number: int, method: str, params: Mapping[str, Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def notice(method: str, params: Mapping[str, Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "method": method, "params": params})


def answer(number: Any, result: Mapping[str, Any]) -> bytes:
    return _line({"jsonrpc": "2.0", "id": number, "result": result})


def refusal(number: Any, code: int, message: str) -> bytes:
    return _line({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode("utf-8", "replace") + b"\n"
