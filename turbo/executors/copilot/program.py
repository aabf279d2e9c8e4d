"""The GitHub Copilot CLI as a program: where it is, and the native binary behind the launcher that npm installs.

    …/node_modules/.bin/copilot ──▶ @github/copilot/npm-loader.js ──▶ @github/copilot-linux-x64/copilot

The launcher is a node script. A signal that reaches it alone leaves the agent and its tools behind, so turbo starts the binary.
"""

import os
import platform
import sys
from pathlib import Path

from turbo.executors.agent.program import USUAL_FOR_NPM, ProgramPlaces

PLACES = ProgramPlaces("the GitHub Copilot CLI", ("~/.local/bin", *USUAL_FOR_NPM))

_LAUNCHERS = ("npm-loader.js", "index.js")
_MACHINES = {"x86_64": "x64", "amd64": "x64", "arm64": "arm64", "aarch64": "arm64"}


def native(program: str) -> str:
    """The binary that a launcher would start; the program itself where it is no launcher, or its binary is not found."""
    launcher = Path(os.path.realpath(program))
    machine = _MACHINES.get(platform.machine().lower())
    if launcher.name not in _LAUNCHERS or launcher.parent.name != "copilot" or machine is None:
        return program
    for system in (sys.platform, f"{sys.platform}musl"):  # npm installs the one that fits
        package = f"copilot-{system}-{machine}"
        for place in (launcher.parent.parent, launcher.parent / "node_modules" / "@github"):
            binary = place / package / "copilot"
            if binary.is_file() and os.access(binary, os.X_OK):
                return str(binary)
    return program
