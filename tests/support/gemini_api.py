"""A Gemini API on loopback, for the real Gemini CLI: `POST /v1beta/models/MODEL:streamGenerateContent`, streamed as SSE."""

import json
from collections.abc import Mapping
from typing import Any

from tests.support.messages_api import JSON, Answer, MessagesApi, Request

SSE = {"content-type": "text/event-stream"}


class GeminiRequest(Request):
    @property
    def everything(self) -> str:
        return json.dumps(self.body.get("contents"), ensure_ascii=False)


class GeminiApi(MessagesApi):
    def is_path(self, path: str) -> bool:
        return "/models/" in path

    def request(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request:
        return GeminiRequest(path, headers, body)


def text(answer: str) -> Answer:
    return _finished([{"text": answer}])


def call(name: str, arguments: Mapping[str, Any]) -> Answer:
    return _finished([{"functionCall": {"name": name, "args": arguments}}])


def error(status: int, message: str, kind: str, *details: Mapping[str, Any]) -> Answer:
    """An API error as documented."""
    body = {"error": {"code": status, "message": message, "status": kind, "details": list(details)}}
    return Answer(status, {"content-type": JSON}, (json.dumps(body).encode(),))


def _finished(parts: list[dict[str, Any]]) -> Answer:
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107}
    whole = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
    }
    return Answer(200, SSE, (f"data: {json.dumps(whole)}\n\n".encode(),))
