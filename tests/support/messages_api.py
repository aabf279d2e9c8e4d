"""A Messages API on loopback, for the real Claude CLI: `POST /v1/messages`, streamed as SSE, and its ways to fail.

A test says what the API answers, request by request; the last answer stays. Error bodies, headers and messages follow
the public API's documentation, so what the CLI makes of them is the CLI's own doing.

    with MessagesApi(tool("Bash", {"command": "true"}), text("done")) as api:
        ...  # run the CLI with ANTHROPIC_BASE_URL=api.url
    assert api.requests[0].prompt.endswith("hello")
"""

import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from turbo.executors.agent.shallow import shallow

JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """One answer to one request. `pieces` are sent one by one; `then` says what follows them: end, stall or reset."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    then: str = "end"


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The text of the last user message, as the model would see it (the CLI's own reminders included)."""
        users = [m for m in self.body["messages"] if m["role"] == "user"]
        content = users[-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)

    @property
    def everything(self) -> str:
        return json.dumps(self.body["messages"], ensure_ascii=False)


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(
    answer: str,
    *,
    input_tokens: int = 11,
    output_tokens: int = 7,
    cache_read: int = 0,
    cache_write: int = 0,
    stop_reason: str = "end_turn",
) -> Answer:
    """A finished answer, with its usage."""
    usage = _usage(input_tokens, cache_read, cache_write)
    return Answer(
        200,
        {"content-type": "text/event-stream"},
        tuple(_message([text_block(answer)], usage, output_tokens, stop_reason)),
    )


def tool(name: str, arguments: Mapping[str, Any], *, say: str = "I will look.", output_tokens: int = 20) -> Answer:
    """A turn that ends in one tool call."""
    call = {"type": "tool_use", "id": "toolu_" + uuid.uuid4().hex[:24], "name": name, "input": {}}
    return turn(
        [text_block(say), (call, {"type": "input_json_delta", "partial_json": json.dumps(arguments)})], output_tokens
    )


def turn(blocks: list[tuple[dict[str, Any], dict[str, Any]]], output_tokens: int = 20) -> Answer:
    """A turn of these blocks, which ends in calls."""
    pieces = tuple(_message(blocks, _usage(11, 0, 0), output_tokens, "tool_use"))
    return Answer(200, {"content-type": "text/event-stream"}, pieces)


def refusal() -> Answer:
    """The model declines: HTTP 200, stop_reason refusal, no text."""
    return Answer(200, {"content-type": "text/event-stream"}, tuple(_message([], _usage(11, 0, 0), 1, "refusal")))


def stalled() -> Answer:
    """The stream begins, and then nothing: no byte, no end."""
    pieces = list(_message([text_block("half an ans")], _usage(11, 0, 0), 5, "end_turn"))
    return Answer(200, {"content-type": "text/event-stream"}, tuple(pieces[:3]), "stall")


def silent() -> Answer:
    """The request is taken, and no byte ever answers it."""
    return Answer(0, then="stall")


def reset() -> Answer:
    """The connection is reset instead of an answer."""
    return Answer(0, then="reset")


def error(status: int, kind: str, message: str, **headers: str) -> Answer:
    """An API error as documented: {"type": "error", "error": {"type", "message"}}. `_` in a header's name is `-`."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_" + uuid.uuid4().hex[:24]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": JSON, **named}, (json.dumps(body).encode(),))


def page(status: int) -> Answer:
    """What a proxy answers in place of the service."""
    return Answer(status, {"content-type": "text/html"}, (b"<html><h1>Please wait</h1></html>",))


def broken_off() -> Answer:
    """The stream begins, and ends before the answer does."""
    pieces = list(_message([text_block("half an ans")], _usage(11, 0, 0), 5, "end_turn"))
    return Answer(200, {"content-type": "text/event-stream"}, tuple(pieces[:3]))


def overloaded_midway() -> Answer:
    """The stream begins, and then reports an overload in place of the rest."""
    pieces = list(_message([text_block("half an ans")], _usage(11, 0, 0), 5, "end_turn"))
    overload = _event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    return Answer(200, {"content-type": "text/event-stream"}, (*pieces[:2], overload))


def usage_limit(claim: str, resets_at: int) -> Answer:
    """A subscription's limit. `claim`: five_hour, seven_day or seven_day_opus; the CLI reads it for OAuth only."""
    window = {"five_hour": "5h", "seven_day": "7d", "seven_day_opus": "7d_opus"}[claim]
    unified = {
        "status": "rejected",
        "representative-claim": claim,
        "reset": str(resets_at),
        f"{window}-status": "rejected",
        f"{window}-reset": str(resets_at),
        f"{window}-utilization": "1.0",
        "fallback": "unavailable",
        "overage-status": "rejected",
        "overage-disabled-reason": "org_level_disabled",
    }
    headers = {f"anthropic_ratelimit_unified_{name.replace('-', '_')}": value for name, value in unified.items()}
    return error(429, "rate_limit_error", "This request would exceed your account's rate limit.", **headers)


def credits_required() -> Answer:
    """The account's credits are used up: a 429 without a reset."""
    details = {"error_code": "credits_required"}
    body = {"type": "error", "error": {"type": "rate_limit_error", "message": "You need credits.", "details": details}}
    return Answer(429, {"content-type": JSON}, (json.dumps(body).encode(),))


def invalid_key() -> Answer:
    return error(401, "authentication_error", "invalid x-api-key")


def expired_token() -> Answer:
    return error(
        401,
        "authentication_error",
        "OAuth token has expired. Please obtain a new token or refresh your existing token.",
    )


def revoked_token() -> Answer:
    return error(403, "permission_error", "OAuth token has been revoked. Please obtain a new token.")


def _usage(input_tokens: int, cache_read: int, cache_write: int) -> dict[str, int]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": 1,
        "cache_read_input_tokens": cache_read,
        "cache_creation_input_tokens": cache_write,
    }


def text_block(answer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"type": "text", "text": ""}, {"type": "text_delta", "text": answer}


def _message(
    blocks: list[tuple[dict[str, Any], dict[str, Any]]], usage: dict[str, int], output_tokens: int, stop_reason: str
) -> Iterator[bytes]:
    start: dict[str, Any] = {
        "id": "msg_" + uuid.uuid4().hex[:24],
        "type": "message",
        "role": "assistant",
        "model": "{model}",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield _event("message_start", message=start)
    for index, (block, delta) in enumerate(blocks):
        yield _event("content_block_start", index=index, content_block=block)
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    yield _event(
        "message_delta",
        delta={"stop_reason": stop_reason, "stop_sequence": None},
        usage={"output_tokens": output_tokens},
    )
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


# ── the server ──────────────────────────────────────────────────────────────────────────────────────────────────────


class MessagesApi(ThreadingHTTPServer):
    """Answers in order; the last one for all that follow. Stalled requests are let go when it closes."""

    daemon_threads = True
    block_on_close = False
    path = "/v1/messages"

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._answers = list(answers)
        self._lock = threading.Lock()
        self.decide: Callable[[Request], Answer | None] = lambda _request: None  # its answer comes first; it may block
        self.requests: list[Request] = []
        self.arrived = threading.Event()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, *answers: Answer) -> None:
        """From now on."""
        with self._lock:
            self._answers = list(answers)

    def is_path(self, path: str) -> bool:
        """Whether it answers what is posted there."""
        return path == self.path

    def request(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request:
        return Request(path, headers, body)

    def answer_get(self, path: str) -> Answer:
        del path
        return error(404, "not_found_error", "Not found")

    def take(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
        self.arrived.set()
        if (decided := self.decide(request)) is not None:
            return decided
        with self._lock:
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def go_away(self) -> None:
        """From now on connections are refused."""
        self.shutdown()
        self.server_close()

    def come_back(self) -> None:
        """At the same port."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A CLI that is ended in mid-answer is what many tests do."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: MessagesApi

    def do_POST(self) -> None:
        raw = self._body()
        if not self.server.is_path(self.path.split("?")[0]):
            self._send(error(404, "not_found_error", "Not found"), {})
            return
        body = json.loads(shallow(raw))  # the agent's own calls come back to it
        self._send(self.server.take(self.server.request(self.path, dict(self.headers), body)), body)

    def do_GET(self) -> None:
        self._send(self.server.answer_get(self.path), {})

    def do_HEAD(self) -> None:
        self._send(Answer(200), {})

    def log_message(self, format: str, *arguments: Any) -> None: ...

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        whole = bytearray()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(whole)

    def _send(self, answer: Answer, body: Mapping[str, Any]) -> None:
        if answer.then == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        if answer.status:
            streams = answer.headers.get("content-type") == "text/event-stream"
            pieces = [piece.replace(b"{model}", str(body.get("model", "")).encode(), 1) for piece in answer.pieces]
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("request-id", "req_" + uuid.uuid4().hex[:24])
            if streams:
                self.send_header("connection", "close")
                self.close_connection = True
            else:
                self.send_header("content-length", str(sum(map(len, pieces))))
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()
        if answer.then == "stall":
            self.server.closing.wait()
            self.close_connection = True


def wait_for(api: MessagesApi, requests: int, seconds: float = 20.0) -> None:
    """Until that many requests have arrived. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while len(api.requests) < requests:
        left = deadline - time.monotonic()
        if left <= 0 or not api.arrived.wait(left):
            raise TimeoutError(f"{len(api.requests)} of {requests} requests arrived in {seconds} s")
        api.arrived.clear()
