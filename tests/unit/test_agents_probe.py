"""What `turbo agents probe` prints of its findings: nothing that it did not find out."""

from typing import Any

import pytest
import yaml

from turbo.cli.agents import as_yaml, profile_of, told
from turbo.executors.acp.probing import AgentFindings

COMMAND = ["/opt/agent/bin/some-agent", "acp"]


def printed(found: AgentFindings) -> tuple[str, dict[str, Any]]:
    text = as_yaml(found, profile_of(found, COMMAND), COMMAND)
    ((_, section),) = yaml.safe_load(text)["executors"].items()
    return text, section


def test_what_was_not_tried_is_not_in_the_profile() -> None:
    """A probe that was refused a login must not say that sessions cannot go on, or that there is no usage."""
    found = AgentFindings(
        protocol=1, says=["load", "resume"], problem="it refused session/new: Authentication required"
    )
    text, section = printed(found)
    assert {"resume", "usage"}.isdisjoint(section["profile"])
    assert "not complete" in text
    shown = "\n".join(told(found))
    assert "unknown session  not tried" in shown
    assert "not complete" in shown


def test_what_was_tried_is_in_the_profile() -> None:
    found = AgentFindings(protocol=1, says=["load", "resume"], works={"resume": False, "load": True}, usage="none")
    text, section = printed(found)
    assert (section["profile"]["resume"], section["profile"]["usage"]) == ("load", "none")
    assert "not complete" not in text


@pytest.mark.parametrize(("says", "works"), [([], {}), (["load"], {"load": False})])
def test_an_agent_whose_sessions_cannot_go_on_has_resume_none(says: list[str], works: dict[str, bool]) -> None:
    _, section = printed(AgentFindings(protocol=1, says=says, works=works))
    assert section["profile"]["resume"] == "none"


def test_the_command_is_printed_once() -> None:
    _, section = printed(AgentFindings(protocol=1))
    assert section["command"] == COMMAND
    assert "command" not in section["profile"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("@agentclientprotocol/claude-agent-acp", "claude-agent-acp"), ("Some Agent", "some-agent"), ("", "some-agent")],
)
def test_the_name_of_a_profile_has_no_npm_scope(name: str, expected: str) -> None:
    _, section = printed(AgentFindings(protocol=1, name=name))
    assert section["profile"]["name"] == expected
