"""The labels that every worker has: what its host is."""

import platform

SYSTEMS = {"Darwin": "macos"}
ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64"}
"""One name for what systems call differently."""


def host_labels(host: str) -> dict[str, str]:
    """`os` (macos, linux), `arch` (arm64, x86_64) and `host`, the name that the worker goes by."""
    system, machine = platform.system(), platform.machine().lower()
    return {
        "os": SYSTEMS.get(system, system.lower()),
        "arch": ARCHITECTURES.get(machine, machine),
        "host": host,
    }
