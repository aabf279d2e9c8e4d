"""The contenders, in the order of the tables. Each is a file here, and says itself why it cannot run where it cannot."""

from importlib import import_module

from benchmarks.contender import Contender

MODULES = ("floor", "turbo", "graphile", "procrastinate", "pgqueuer", "chancy", "awa", "poller")


def contenders() -> list[Contender]:
    """All of them; those that need a package import it in their programs only."""
    return [c for module in MODULES for c in import_module(f"benchmarks.contenders.{module}").CONTENDERS]
