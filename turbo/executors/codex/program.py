"""The Codex CLI as a program: where it is, and the native binary behind the launcher that npm installs.

    …/node_modules/.bin/codex ──▶ @openai/codex/bin/codex.js ──▶ @openai/codex-linux-x64/vendor/TARGET/bin/codex

The launcher is a node script. A KILL that reaches it alone leaves the agent and its tools behind, so turbo starts the binary.
"""

import os
import platform
import sys
from pathlib import Path

from turbo.executors.agent.program import USUAL_FOR_NPM, ProgramPlaces

PLACES = ProgramPlaces("the Codex CLI", ("~/.local/bin", *USUAL_FOR_NPM))

_SYSTEMS = {"linux": "unknown-linux-musl", "darwin": "apple-darwin"}
_MACHINES = {
    "x86_64": ("x64", "x86_64"),
    "amd64": ("x64", "x86_64"),
    "arm64": ("arm64", "aarch64"),
    "aarch64": ("arm64", "aarch64"),
}


def native(program: str) -> str:
    """The binary that a launcher would start; the program itself where it is no launcher, or its binary is not found."""
    launcher = Path(os.path.realpath(program))
    if launcher.name != "codex.js":
        return program
    machine, system = _MACHINES.get(platform.machine().lower()), _SYSTEMS.get(sys.platform)
    if machine is None or system is None:
        return program
    short, long = machine
    package, target = launcher.parent.parent, f"{long}-{system}"
    beside = f"codex-{sys.platform}-{short}"
    for vendor in (
        package / "node_modules" / "@openai" / beside / "vendor",
        package.parent / beside / "vendor",
        package / "vendor",
    ):
        binary = vendor / target / "bin" / "codex"
        if binary.is_file() and os.access(binary, os.X_OK):
            return str(binary)
    return program
