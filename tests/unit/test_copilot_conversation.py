"""Lines of the GitHub Copilot CLI as `turbo logs` shows them."""

import pytest

from turbo.client.copilot_conversation import lines_of


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("assistant.message", {"content": "done"}, [("said", "done")]),
        ("assistant.message", {"content": "", "toolRequests": []}, []),
        ("assistant.message", {"content": 7}, []),
        (
            "tool.execution_start",
            {"toolName": "bash", "arguments": {"command": "make\n test"}},
            [("call", "bash  make test")],
        ),
        ("tool.execution_start", {"toolName": "sql", "arguments": {"n": 1}}, [("call", 'sql  {"n": 1}')]),
        ("tool.execution_start", {"arguments": [1]}, [("call", "  [1]")]),
        (
            "tool.execution_complete",
            {"success": True, "shellExecution": {"exitCode": 0}, "result": {"content": "12"}},
            [("result", "12")],
        ),
        (
            "tool.execution_complete",
            {"success": True, "shellExecution": {"exitCode": 2}, "result": {"content": "no"}},
            [("failed", "no")],
        ),
        ("tool.execution_complete", {"error": {"message": "Permission denied"}}, [("failed", "Permission denied")]),
        ("session.error", {"message": "no quota"}, [("note", "turn failed: no quota")]),
        ("session.info", {"message": "Retrying..."}, [("note", "Retrying...")]),
        ("model.call_start", {}, []),
    ],
)
def test_copilot_line_is_told_in_words(kind: str, data: object, told: list[tuple[str, str]]) -> None:
    lines = lines_of({"type": kind, "data": data})
    assert lines is not None
    assert list(lines) == told


@pytest.mark.parametrize("row", [{}, {"type": 7}, {"type": "other.thing", "data": {}}, {"type": "session.error"}])
def test_line_of_another_program_is_left_alone(row: dict[str, object]) -> None:
    assert lines_of(row) is None
