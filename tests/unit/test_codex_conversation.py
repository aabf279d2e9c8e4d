"""Lines of the Codex CLI as `turbo logs` shows them."""

import pytest

from turbo.client.codex_conversation import lines_of


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"type": "turbo.prompt", "text": "do it"}, [("told", "do it")]),
        ({"type": "thread.started", "thread_id": "x"}, []),
        ({"type": "item.completed", "item": {"type": "agent_message", "text": "done"}}, [("said", "done")]),
        (
            {
                "type": "item.completed",
                "item": {
                    "type": "command_execution",
                    "command": "/bin/bash -lc 'false\n;'",
                    "aggregated_output": "no",
                    "exit_code": 1,
                },
            },
            [("call", "shell  'false ;'"), ("failed", "no")],
        ),
        (
            {"type": "item.completed", "item": {"type": "file_change", "changes": [{"kind": "add", "path": "a"}, 7]}},
            [("call", "add  a")],
        ),
        ({"type": "item.completed", "item": {"type": "reasoning", "text": "hm"}}, [("note", "thinking, 2 characters")]),
        ({"type": "item.completed", "item": {"type": "web_search"}}, [("call", "web_search")]),
        ({"type": "item.completed", "item": 7}, []),
        ({"type": "error", "message": "Reconnecting... 1/5"}, [("note", "Reconnecting... 1/5")]),
        ({"type": "turn.failed", "error": {"message": "no"}}, [("note", "turn failed: no")]),
        ({"type": "turn.failed", "error": "no"}, [("note", "turn failed: ")]),
        ({"type": "turn.completed"}, [("note", "turn completed")]),
    ],
)
def test_line_of_codex_is_told(row: dict[str, object], told: list[tuple[str, str]]) -> None:
    found = lines_of(row)
    assert found is not None
    assert list(found) == told


def test_line_of_another_program_is_left_to_others() -> None:
    assert lines_of({"type": "something"}) is None
