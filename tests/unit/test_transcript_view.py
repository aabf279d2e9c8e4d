"""`turbo logs` on rows that no agent's CLI writes: each is shown as it is, and the others are still read."""

from datetime import UTC, datetime
from typing import cast

import pytest

from turbo.cli.transcript_view import TranscriptView
from turbo.client.client import Client
from turbo.client.transcript import TranscriptLine

SAID = '{"type":"assistant","message":{"content":[{"type":"text","text":"still here"}]}}'


class Stored:
    """A client that has these lines."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def transcript(self, task_id: str, after: tuple[int, int]) -> list[TranscriptLine]:
        now = datetime.now(UTC)
        return [TranscriptLine(1, n, now, None, "event", "", text) for n, text in enumerate(self._texts)]


@pytest.mark.parametrize(
    "hostile",
    [
        '{"type":"result","total_cost_usd":1' + "0" * 400 + "}",
        '{"type":"assistant","message":{"content":[{"type":"tool_use","name":"AskUserQuestion","input":{"questions":[{"options":7}]}}]}}',
        '{"type":"assistant","message":{"content":[{"type":"tool_use","name":"x","input":%s}]}}'
        % ("[" * 900 + "]" * 900),
        '{"type":"result","subtype":%s}' % ("[" * 900 + "]" * 900),
        '{"type":' * 100_000,
    ],
)
def test_hostile_row_is_shown_and_the_next_one_too(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert TranscriptView(cast(Client, Stored(hostile, SAID)), "t").more()
    *shown, last = capsys.readouterr().out.splitlines()
    assert last == "still here"
    assert shown
