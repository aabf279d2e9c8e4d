"""What `turbo config check` and `turbo doctor` say about a claude section that trusts more than it should."""

from pathlib import Path

import pytest

from tests.support.shell import Shell
from turbo.config.executors import ClaudeSection
from turbo.config.worker import load_worker_config
from turbo.doctor.programs import checks
from turbo.doctor.surroundings import WorkerEnvironment
from turbo.domain.states import Level
from turbo.executors.claude.notes import notes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, []),
        ({"command": ["/opt/bin/claude", "--mcp-config", "/etc/mcp.json", "--setting-sources", "user"]}, []),
        ({"command": ["claude", "--settings", '{"model": "x"}'], "account": "a"}, []),
        ({"trust_repository": True}, ["send the account's login to any server"]),
        ({"trust_repository": True, "command": ["claude", "--mcp-config", ".mcp.json"]}, ["any server"]),
        ({"command": ["claude", "--setting-sources", "user,project"]}, ["user,project has no effect"]),
        ({"command": ["claude", "--setting-sources=local"]}, ["local has no effect"]),
        ({"command": ["claude", "--mcp-config=.mcp.json"]}, [".mcp.json is looked up in the working directory"]),
        ({"command": ["claude", "--settings", "./s.json"]}, ["./s.json is looked up in the working directory"]),
        ({"command": ["docker", "run", "claude"], "account": "a"}, ["docker does not have claude in its name"]),
    ],
)
def test_section_gets_exactly_these_notes(settings: dict[str, object], says: list[str]) -> None:
    section = ClaudeSection.model_validate({"kind": "claude"} | settings)
    found = list(notes("agent", section))
    assert len(found) == len(says), found
    for finding, text in zip(found, says, strict=True):
        assert text in finding.what
        assert finding.what.startswith("executors.agent.")
        assert finding.do


def test_config_check_and_doctor_say_what_trust_means(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("executors: {agent: {kind: claude, trust_repository: true}}\nroutes: {default: agent}\n")
    said = Shell("", tmp_path)("config", "check", file)
    assert said.code == 0
    assert "can run programs as the worker's user, and send the account's login to any server" in said.err
    (check,) = (
        check
        for check in checks(load_worker_config(file), None, lambda: WorkerEnvironment({}, ""))
        if "trust" in check.name
    )
    assert check.run().level is Level.WARN
    assert "any server" in check.run().what
