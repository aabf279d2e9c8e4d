"""The real Claude CLI as a client of `turbo mcp`: it hands work to a real worker, waits for it and reads the result."""

import json
import subprocess

from tests.support.claude import KEY, a_bench, the_cli
from tests.support.messages_api import text, tool
from tests.support.prefork import TURBO


def test_claude_submits_waits_and_reads_the_result(bench, tmp_path_factory):
    bench.start()
    servers = {"turbo": {"command": str(TURBO), "args": ["mcp"], "env": {"TURBO_DSN": bench.dsn}}}
    with a_bench(tmp_path_factory) as claude:
        claude.api.answer(
            tool(
                "mcp__turbo__submit", {"text": "say it back", "type": "echo", "input": {"said": 1}, "id": "from-claude"}
            ),
            tool("mcp__turbo__wait", {"task_ids": ["from-claude"]}),
            tool("mcp__turbo__result", {"task_id": "from-claude"}),
            text("The fleet has done it."),
        )
        done = subprocess.run(
            [
                the_cli(), "-p", "--model", "sonnet", "--mcp-config", json.dumps({"mcpServers": servers}),
                "--strict-mcp-config", "--allowedTools", "mcp__turbo",
            ],
            input="Let the fleet do it.", capture_output=True, text=True, timeout=120, check=False, cwd=claude.home,
            env={**claude.scrubbed(), **KEY, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "The fleet has done it.\n"), done.stderr
        result = claude.api.requests[-1].everything
        assert '\\"status\\": \\"completed\\"' in result or '\\"status\\":\\"completed\\"' in result, result
    assert bench.sql("select status, input_data from agent_tasks") == [("completed", {"said": 1})]
