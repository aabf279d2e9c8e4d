"""What turbo writes to an agent, read by the protocol's own library; and what agents write, read by turbo."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from acp import schema

from turbo.executors.acp import messages, permissions
from turbo.executors.acp.messages import AgentAnswer, AgentNotice, AgentRequest, UnreadLine
from turbo.executors.acp.talk import OFFERED, PROTOCOL

SENT: list[tuple[Any, Mapping[str, Any]]] = [
    (schema.InitializeRequest, {"protocolVersion": PROTOCOL, "clientCapabilities": OFFERED}),
    (schema.NewSessionRequest, {"cwd": "/srv", "mcpServers": []}),
    (schema.LoadSessionRequest, {"cwd": "/srv", "mcpServers": [], "sessionId": "s"}),
    (schema.ResumeSessionRequest, {"cwd": "/srv", "mcpServers": [], "sessionId": "s"}),
    (schema.SetSessionModeRequest, {"sessionId": "s", "modeId": "plan"}),
    (schema.PromptRequest, {"sessionId": "s", "prompt": [{"type": "text", "text": "hello"}]}),
    (schema.CancelNotification, {"sessionId": "s"}),
    (schema.RequestPermissionResponse, permissions.selected("once")),
    (schema.RequestPermissionResponse, permissions.CANCELLED),
]


@pytest.mark.parametrize(("model", "params"), SENT, ids=[model.__name__ for model, _ in SENT])
def test_library_reads_what_turbo_sends(model: Any, params: Mapping[str, Any]) -> None:
    read = model.model_validate(params)
    told = read.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert {key: value for key, value in told.items() if key in params}.keys() == params.keys()


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ('{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}', AgentAnswer(3, {"stopReason": "end_turn"})),
        ('{"jsonrpc":"2.0","id":3,"result":null}', AgentAnswer(3, {})),
        (
            '{"id":"a","method":"fs/read_text_file","params":{"path":"/"}}',
            AgentRequest("a", "fs/read_text_file", {"path": "/"}),
        ),
        ('{"id":null,"method":"x"}', AgentRequest(None, "x", {})),
        ('{"method":"session/update","params":{"a":1}}', AgentNotice("session/update", {"a": 1})),
        ('{"method":"x","params":[1]}', AgentNotice("x", {})),
        ('{"jsonrpc":"2.0"}', None),
        ("[1]", None),
        ("nonsense", None),
        ("", None),
        ('{"jsonrpc":"2.0","id":7,"method":"x","params":{', UnreadLine(7, is_request=True)),
        ('{"jsonrpc":"2.0","id":"b","result":{', UnreadLine("b")),
        ('{"jsonrpc":"2.0","method":"session/update","params":{', UnreadLine(None, is_request=True)),
    ],
)
def test_lines_of_agents_are_read_leniently(line: str, read: object) -> None:
    assert messages.read(line.encode()) == read


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ({"code": -32603, "message": "m", "data": {"a": "b"}}, 'm: {"a": "b"}'),
        ({"code": -32603, "message": "m", "data": "d"}, "m: d"),
        ({"code": "x", "message": 7}, ""),
        ("odd", "odd"),
    ],
)
def test_errors_of_agents_have_words(error: object, text: str) -> None:
    answer = messages.read(json.dumps({"id": 1, "error": error}).encode())
    assert isinstance(answer, AgentAnswer)
    assert answer.error is not None
    assert answer.error.text == text
