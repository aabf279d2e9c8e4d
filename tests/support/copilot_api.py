"""The services of GitHub Copilot on loopback, for the real Copilot CLI: `POST /chat/completions` as SSE, and GitHub's own answers.

The same server is the provider of a CLI with a key of its own (COPILOT_PROVIDER_BASE_URL), and GitHub for a CLI with a token. A test
says what the model answers, request by request; the last answer stays. `github` holds what GitHub answers to GET, by path. Bodies are
reconstructions: what the CLI makes of them is the CLI's own doing.

    with CopilotApi(shell("true"), text("done")) as api:
        ...  # run the CLI with COPILOT_PROVIDER_BASE_URL=api.url
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.messages_api import JSON, Answer, MessagesApi, page, reset, silent

__all__ = ["Answer", "CopilotApi", "page", "reset", "silent"]

SSE = {"content-type": "text/event-stream"}
INPUT, CACHED, OUTPUT = 100, 40, 7
"""What one answer uses. The input includes what was read from the cache."""

MODELS = ("gpt-5-mini", "claude-sonnet-4.5")


class CopilotApi(MessagesApi):
    path = "/chat/completions"

    def __init__(self, *answers: Answer) -> None:
        super().__init__(*answers)
        self.github: dict[str, Answer] = {}

    def answer_get(self, path: str) -> Answer:
        path = path.split("?")[0]
        known = {"/copilot_internal/user": _json(200, _user()), "/models": _json(200, _models())}
        return (known | self.github).get(path) or _json(404, {"message": "Not Found"})


def text(answer: str, finish: str = "stop") -> Answer:
    """A finished answer, with its usage. `finish`: why it ended."""
    return _finished({"role": "assistant", "content": answer}, finish)


def call(name: str, arguments: Mapping[str, Any]) -> Answer:
    """A turn that goes on with the result of one call of a tool."""
    delta = {"role": "assistant", "content": "I will look.", "tool_calls": [_asked(name, arguments)]}
    return _finished(delta, "tool_calls")


def shell(command: str, **more: object) -> Answer:
    return call("bash", {"command": command, "description": "a command", **more})


def charged(ai_credits: int) -> Answer:
    """A call of a tool that has cost so much."""
    delta = {"role": "assistant", "content": "I will look.", "tool_calls": [_asked("bash", {"command": "true"})]}
    return _finished(delta, "tool_calls", copilot_usage={"total_nano_aiu": ai_credits * 10**9, "token_details": []})


def broken_off() -> Answer:
    """The stream begins, and ends before the answer does."""
    return Answer(200, SSE, (_chunk({"role": "assistant", "content": "half an ans"}),))


def error(status: int, message: str, code: str = "", **headers: str) -> Answer:
    """`_` in a header's name is `-`."""
    return _json(status, {"error": {"message": message, "code": code}}, **headers)


def refused(status: int) -> Answer:
    """What GitHub answers to a token."""
    return _json(status, {"message": "Bad credentials"})


def _asked(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"index": 0, "id": "call_" + uuid.uuid4().hex[:12], "type": "function", "function": function}


def _finished(delta: Mapping[str, Any], finish: str, **more: object) -> Answer:
    usage = {
        "prompt_tokens": INPUT,
        "completion_tokens": OUTPUT,
        "total_tokens": INPUT + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED},
    }
    return Answer(200, SSE, (_chunk(delta), _chunk({}, finish, usage, more), b"data: [DONE]\n\n"))


def _chunk(
    delta: Mapping[str, Any],
    finish: str | None = None,
    usage: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini", "choices": [choice]}
    return f"data: {json.dumps({**body, **({'usage': usage} if usage else {}), **(more or {})})}\n\n".encode()


def _user() -> dict[str, Any]:
    return {
        "login": "me",
        "access_type_sku": "copilot_pro",
        "copilot_plan": "individual",
        "chat_enabled": True,
        "organization_list": [],
        "endpoints": {},
    }


def _models() -> dict[str, Any]:
    limits = {"max_context_window_tokens": 128_000, "max_prompt_tokens": 128_000, "max_output_tokens": 16_384}
    supports = {"streaming": True, "tool_calls": True, "parallel_tool_calls": True}
    data = [
        {
            "id": name,
            "name": name,
            "object": "model",
            "version": name,
            "vendor": "OpenAI",
            "preview": False,
            "model_picker_enabled": True,
            "policy": {"state": "enabled", "terms": ""},
            "billing": {"is_premium": True, "multiplier": 1},
            "supported_endpoints": ["/chat/completions"],
            "capabilities": {
                "family": name,
                "type": "chat",
                "object": "model_capabilities",
                "tokenizer": "o200k_base",
                "limits": limits,
                "supports": supports,
            },
        }
        for name in MODELS
    ]
    return {"object": "list", "data": data}


def _json(status: int, body: object, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"content-type": JSON, **named}, (json.dumps(body).encode(),))
