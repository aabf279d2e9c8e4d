"""A chat completions API on loopback, for the real CLIs that take any service of that form: `POST /v1/chat/completions` as SSE.

A test says what the API answers, request by request; the last answer stays. Error bodies follow the public API's documentation, so
what a CLI makes of them is the CLI's own doing.

    with CompletionsApi(call("bash", {"command": "true"}), text("done")) as api:
        ...  # run the CLI with a provider whose base URL is api.url + "/v1"
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.messages_api import JSON, Answer, MessagesApi, page, reset, silent

__all__ = ["Answer", "CompletionsApi", "page", "reset", "silent"]

SSE = {"content-type": "text/event-stream"}
INPUT, CACHED, OUTPUT = 100, 40, 7
"""What one answer uses. The input includes what was read from the cache."""


class CompletionsApi(MessagesApi):
    path = "/v1/chat/completions"

    def answer_get(self, path: str) -> Answer:
        if path.endswith("/models"):
            return _json(200, {"object": "list", "data": [{"id": "fake", "object": "model"}]})
        return super().answer_get(path)


def text(answer: str) -> Answer:
    """A finished answer, with its usage."""
    return Answer(200, SSE, (*_begun(answer), *_ended("stop")))


def call(name: str, arguments: Mapping[str, Any], *, say: str = "") -> Answer:
    """A turn that goes on with the result of one call of a tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    one = {"index": 0, "id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": function}
    return Answer(200, SSE, (*_begun(say), _chunk({"tool_calls": [one]}), *_ended("tool_calls")))


def cut() -> Answer:
    """The stream begins, and ends before the answer does."""
    return Answer(200, SSE, _begun("half an ans"))


def stalled() -> Answer:
    """The stream begins, and then nothing: no byte, no end."""
    return Answer(200, SSE, _begun("half an ans"), "stall")


def ended(reason: str, answer: str = "so far") -> Answer:
    """An answer with this finish_reason: length, content_filter."""
    return Answer(200, SSE, (*_begun(answer), *_ended(reason)))


def error(
    status: int, message: str, code: str | None = None, kind: str = "invalid_request_error", **headers: str
) -> Answer:
    """An API error as documented. `_` in a header's name is `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}}, named)


def _json(status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, {"content-type": JSON, **(headers or {})}, (json.dumps(body).encode(),))


def _begun(answer: str) -> tuple[bytes, ...]:
    return (_chunk({"role": "assistant", "content": ""}), *((_chunk({"content": answer}),) if answer else ()))


def _ended(reason: str) -> tuple[bytes, ...]:
    usage = {
        "prompt_tokens": INPUT,
        "completion_tokens": OUTPUT,
        "total_tokens": INPUT + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }
    return (_chunk({}, reason), _event({"choices": [], "usage": usage}), b"data: [DONE]\n\n")


def _chunk(delta: Mapping[str, Any], reason: str | None = None) -> bytes:
    return _event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def _event(fields: Mapping[str, Any]) -> bytes:
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", **fields}
    return f"data: {json.dumps(whole)}\n\n".encode()
