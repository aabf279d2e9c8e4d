"""Lines of an agent over ACP, as `turbo logs` shows them; and how messages become lines."""

import json
from typing import Any

import pytest

from turbo.client.acp_conversation import lines_of
from turbo.executors.acp.said import SaidLines


class Sink:
    wanted = True

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def line(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


def update(what: str, **fields: Any) -> bytes:
    told = {"method": "session/update", "params": {"sessionId": "s", "update": {"sessionUpdate": what, **fields}}}
    return json.dumps(told).encode()


def chunk(text: str, message: str = "m1") -> bytes:
    return update("agent_message_chunk", messageId=message, content={"type": "text", "text": text})


def test_pieces_of_a_message_become_one_line() -> None:
    sink = Sink()
    said = SaidLines(sink)  # type: ignore[arg-type]
    for line in (
        chunk("I will "),
        chunk("look."),
        update("usage_update", used=1),
        update("tool_call", title="ls", kind="execute", status="pending"),
        chunk("one", "m2"),
        chunk("two", "m3"),
        update("agent_thought_chunk", content={"type": "text", "text": "hm"}),
    ):
        said.update(line)
    said.close()
    assert [row.get("text") for row in sink.lines if "text" in row] == ["I will look.", "one", "two", "hm"]
    assert [row["type"] for row in sink.lines if "type" in row][-1] == "turbo.thought"
    assert any("params" in row for row in sink.lines)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"type": "turbo.said", "text": "done"}, [("said", "done")]),
        ({"type": "turbo.thought", "text": "hm"}, [("note", "thinking, 2 characters")]),
        (json.loads(update("tool_call", title="ls", status="pending")), []),
        (
            json.loads(
                update(
                    "tool_call_update",
                    title="git  push",
                    kind="execute",
                    status="failed",
                    content=[{"type": "content", "content": {"type": "text", "text": "no"}}, 7],
                )
            ),
            [("call", "execute  git push"), ("failed", "no")],
        ),
        (
            json.loads(update("tool_call_update", status="completed", content=[{"type": "diff", "path": "a.py"}])),
            [("call", "tool  "), ("result", "changed a.py")],
        ),
        (
            json.loads(update("plan", entries=[{"content": "look", "status": "pending"}, 7])),
            [("note", "plan: look (pending)")],
        ),
        ({"method": "session/update", "params": 7}, []),
    ],
)
def test_line_of_an_acp_agent_is_told(row: dict[str, object], told: list[tuple[str, str]]) -> None:
    found = lines_of(row)
    assert found is not None
    assert list(found) == told


def test_line_of_another_agent_is_left_to_others() -> None:
    assert lines_of({"type": "item.completed"}) is None
