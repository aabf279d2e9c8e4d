"""What a Copilot agent's tools may do, as flags of the CLI. Nobody is there to ask: what is not allowed is refused to the agent.

    nothing set      ──▶ --allow-all-tools --allow-all-urls; files in its directory, and in the system's temporary directory
    allowed_tools    ──▶ only those, --allow-tool; disallowed_tools ──▶ never those, --deny-tool
    any_path: true   ──▶ --allow-all-paths

It is the CLI's own judgement of each call, no sandbox: a command may do what the CLI does not see in its text.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CopilotPermissions:
    """`allowed`, `disallowed`: rules of the CLI, `shell(git:*)`, `write`. Without `allowed`, every tool may be used. `any_path`: files
    outside its directory too."""

    allowed: tuple[str, ...] = ()
    disallowed: tuple[str, ...] = ()
    any_path: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            *(("--allow-all-urls",) if not self.allowed else ()),
            *(f"--allow-tool={rule}" for rule in self.allowed),
            *(("--allow-all-tools",) if not self.allowed else ()),
            *(f"--deny-tool={rule}" for rule in self.disallowed),
            *(("--allow-all-paths",) if self.any_path else ()),
        )
