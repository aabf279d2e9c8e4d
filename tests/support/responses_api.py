"""A Responses API on loopback, for the real Codex CLI: `POST /v1/responses`, streamed as SSE, and its ways to fail.

A test says what the API answers, request by request; the last answer stays. Error bodies, headers and events follow the public
API's documentation, so what the CLI makes of them is the CLI's own doing. A request without a login gets 401, whatever the test says.

    with ResponsesApi(call("exec_command", {"cmd": "true"}), text("done")) as api:
        ...  # run the CLI with a provider whose base_url is api.url + "/v1"
    assert api.requests[0].prompt.endswith("hello")
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.messages_api import JSON, Answer, MessagesApi, Request, page, reset, silent

__all__ = ["Answer", "ResponsesApi", "page", "reset", "silent"]

SSE = {"content-type": "text/event-stream"}
INPUT, CACHED, OUTPUT = 100, 40, 7
"""What one answer uses. The input includes what was read from the cache."""


class ResponsesRequest(Request):
    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        users = [item for item in self.body["input"] if item.get("role") == "user"]
        return "".join(part.get("text", "") for part in users[-1]["content"])

    @property
    def everything(self) -> str:
        return json.dumps(self.body["input"], ensure_ascii=False)


class ResponsesApi(MessagesApi):
    path = "/v1/responses"

    def request(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request:
        return ResponsesRequest(path, headers, body)

    def answer_get(self, path: str) -> Answer:
        """The CLI asks for a websocket first, and falls back at once."""
        del path
        return Answer(426, {"content-type": JSON}, (b"{}",))

    def take(self, request: Request) -> Answer:
        answer = super().take(request)
        signed = any(name.lower() == "authorization" for name in request.headers)
        return answer if signed else error(401, "Missing bearer authentication in header")


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(answer: str, **headers: str) -> Answer:
    """A finished answer, with its usage. `_` in a header's name is `-`."""
    return _finished(_message(answer), headers)


def call(name: str, arguments: Mapping[str, Any]) -> Answer:
    """A turn that goes on with the result of one call of a tool."""
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_" + uuid.uuid4().hex[:12], "name": name}
    return _finished(item | {"arguments": json.dumps(arguments)}, {})


def shell(command: str, **more: object) -> Answer:
    return call("exec_command", {"cmd": command, **more})


def question(title: str, *options: str) -> Answer:
    """The newest models may ask; they go on after it."""
    return call("request_user_input_async", {"questions": [{"title": title, "options": list(options)}]})


def failed(code: str, message: str) -> Answer:
    """HTTP 200, and the stream reports a failure."""
    response = {"id": "resp_1", "status": "failed", "error": {"code": code, "message": message}}
    return Answer(200, SSE, (_created(), _event("response.failed", response=response)))


def incomplete(reason: str) -> Answer:
    response = {"id": "resp_1", "status": "incomplete", "incomplete_details": {"reason": reason}}
    return Answer(200, SSE, (_created(), _event("response.incomplete", response=response)))


def stalled() -> Answer:
    """The stream begins, and then nothing: no byte, no end."""
    return Answer(200, SSE, (_created(),), "stall")


def broken_off() -> Answer:
    """The stream begins, and ends before the answer does."""
    return Answer(200, SSE, (_created(),))


def error(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error", **headers: str
) -> Answer:
    """An API error as documented. `_` in a header's name is `-`."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return _json(status, body, headers)


def detail(status: int, text: str) -> Answer:
    """An error of the ChatGPT back end."""
    return _json(status, {"detail": text}, {})


def usage_limit(resets_at: int, *, used: float = 100.0, kind: str = "usage_limit_reached", **headers: str) -> Answer:
    """A subscription's limit, with the windows in the headers. `kind`: the error's type."""
    body = {
        "error": {
            "type": kind,
            "message": "The usage limit has been reached",
            "plan_type": "pro",
            "resets_at": resets_at,
        }
    }
    return _json(429, body, {**windows(used, resets_at), **headers})


def limit_without_windows(resets_at: int, **headers: str) -> Answer:
    """The reset stands in the body alone, so the CLI tells it as a local time, in words."""
    body = {
        "error": {"type": "usage_limit_reached", "message": "Limit reached", "plan_type": "pro", "resets_at": resets_at}
    }
    return _json(429, body, headers)


def windows(primary: float, resets_at: int, secondary: float = 7.0, limit: str = "codex") -> dict[str, str]:
    """Headers with what is used of the 5-hour and the weekly window, in per cent."""
    named = {
        "primary_used_percent": str(primary),
        "primary_window_minutes": "300",
        "primary_reset_at": str(resets_at),
        "secondary_used_percent": str(secondary),
        "secondary_window_minutes": "10080",
        "secondary_reset_at": str(resets_at + 86_400),
    }
    return {f"x_{limit}_{name}": value for name, value in named.items()}


def _finished(item: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    usage = {
        "input_tokens": INPUT,
        "input_tokens_details": {"cached_tokens": CACHED},
        "output_tokens": OUTPUT,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": INPUT + OUTPUT,
    }
    return Answer(
        200,
        SSE | _named(headers),
        (
            _created(),
            _event("response.output_item.done", output_index=0, item=item),
            _event("response.completed", response={"id": "resp_1", "usage": usage}),
        ),
    )


def _message(answer: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": answer}]
    return {"type": "message", "role": "assistant", "id": "msg_1", "content": content}


def _created() -> bytes:
    return _event("response.created", response={"id": "resp_1"})


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def _json(status: int, body: object, headers: Mapping[str, str]) -> Answer:
    return Answer(status, {"content-type": JSON, **_named(headers)}, (json.dumps(body).encode(),))


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
