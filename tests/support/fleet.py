"""A fleet file over a test's own database, and `turbo fleet` as a person runs it."""

import contextlib
import random
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from tests.support import prefork
from tests.support.prefork import TURBO
from tests.support.workers import Bench


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those the kernel gives out by itself."""
    while True:
        first = random.randrange(15000, 32000 - count)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@dataclass
class Call:
    """`turbo fleet` while it runs."""

    process: prefork.Process
    said: IO[bytes]

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def ended(self, seconds: float = 120.0) -> tuple[int, str]:
        """Its exit code, and its output, standard error included."""
        code = self.process.wait(seconds)
        with self.said:
            self.said.seek(0)
            return code, self.said.read().decode()


@dataclass
class FleetBench:
    """`turbo("install")` runs `turbo fleet install` on `file`. `path`: what stands in front of PATH there."""

    bench: Bench
    home: Path
    path: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.bench.path / "fleet.yaml"

    @property
    def config(self) -> Path:
        return self.home / "worker.yaml"

    @property
    def env_file(self) -> Path:
        return self.home / "turbo.env"

    def write(self, hosts: dict[str, Any], worker: dict[str, Any] | None = None, **defaults: object) -> None:
        """The fleet file, a worker.yaml and an env file with the DSN."""
        self.home.mkdir(parents=True, exist_ok=True)
        config = self.bench.config(**({"drain_seconds": 20, "slots": 2, "lease_seconds": 30} | (worker or {})))
        self.config.write_text(yaml.safe_dump(config))
        self.env_file.touch(0o600)
        self.env_file.write_text(f"TURBO_DSN={self.bench.dsn}\n")
        known: dict[str, object] = {
            "config": str(self.config),
            "executable": str(TURBO),
            "home": str(self.home),
            "log_dir": "~/logs",
            "path": ["/usr/bin", "/bin"],
            "env_file": str(self.env_file),
            "restart_throttle_seconds": 1,
        }
        self.file.write_text(yaml.safe_dump({"defaults": known | defaults, "hosts": hosts}))

    def turbo(self, *words: str, code: int = 0, seconds: float = 120.0) -> str:
        """Its output, standard error included."""
        ended, out = self.start(*words).ended(seconds)
        assert ended == code, f"turbo fleet {' '.join(words)} ended with {ended}:\n{out}{self.logs()}"
        return out

    def start(self, *words: str) -> "Call":
        path = ":".join([*map(str, self.path), "/usr/bin", "/bin"])
        environment = {"PATH": path, "HOME": str(self.home), "TURBO_DSN": self.bench.dsn, "LANG": "C.UTF-8"}
        said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by Call.ended
        process = prefork.popen(
            [TURBO, "fleet", *words, "--file", self.file], env=environment | self.environment, stdout=said, stderr=said
        )
        return Call(process, said)

    def logs(self) -> str:
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.home.glob("**/*.log")))

    def ids(self) -> dict[str, str]:
        """Name → worker id of those that are up."""
        return dict(self.bench.sql("select name, worker_id from agent_workers where state = 'up'"))


@contextlib.contextmanager
def load(one: FleetBench, seconds: float = 0.2, every: float = 0.1) -> Iterator[list[str]]:
    """Tasks of so many seconds are inserted until the block ends; their ids."""
    import threading

    ids: list[str] = []
    over = threading.Event()

    def insert() -> None:
        while not over.wait(every):
            ids.append(f"t{len(ids)}")
            one.bench.insert(ids[-1], {"seconds": seconds})

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join()
