"""make monitoring: a fleet of three workers under a little load, Prometheus and Alertmanager, all on loopback.

Prints the addresses and runs until Ctrl-C. Prometheus and Alertmanager must be installed (Debian: prometheus,
prometheus-alertmanager; macOS: brew install prometheus alertmanager). They run on free ports with the configuration, rules and
alerts of monitoring/; only the ports and the scrape interval differ. Everything is removed afterwards.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from turbo import embedded

ROOT = Path(__file__).resolve().parents[1]
TURBO = Path(sys.executable).parent / "turbo"
PLACES = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")


class Missing(Exception):
    """A program must be installed first; the message has the command."""


def find(*names: str) -> str:
    """The first of `names` on PATH or in the usual places. Raises Missing."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path=os.pathsep.join(PLACES))
        if path:
            return path
    raise Missing(
        f"no {names[0]} here; Debian: apt install prometheus prometheus-alertmanager, macOS: brew install {names[-1]}"
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Monitoring:
    """Prometheus and Alertmanager over a list of targets.

    `scrape`: seconds between scrapes and evaluations. `hurry`: alerts need not last before they fire and are sent, for tests.
    """

    def __init__(self, scratch: Path, *, scrape: int = 5, webhook: str | None = None, hurry: bool = False) -> None:
        self.home = scratch / "monitoring"
        self._webhook = webhook
        self._scrape = scrape
        self._hurry = hurry
        self._processes: list[subprocess.Popen[bytes]] = []
        self.prometheus = f"http://127.0.0.1:{free_port()}"
        self.alertmanager = f"http://127.0.0.1:{free_port()}"

    def targets(self, targets: list[dict[str, Any]]) -> None:
        """Write targets.json, as `turbo fleet render` does: [{targets: [host:port], labels: {host, worker}}]."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "targets.json").write_text(json.dumps(targets))

    def start(self) -> None:
        """Start both and wait until they are ready. Raises Missing."""
        prometheus, alertmanager = find("prometheus"), find("prometheus-alertmanager", "alertmanager")
        for file in sorted((ROOT / "monitoring" / "prometheus").glob("*.yml")):
            text = file.read_text()
            if file.name == "prometheus.yml":
                text = text.replace("127.0.0.1:9093", self.alertmanager.removeprefix("http://"))
                text = text.replace("interval: 15s", f"interval: {self._scrape}s")
            if self._hurry:
                text = re.sub(r"\bfor: \d+[mh]", "for: 0s", text)
            (self.home / file.name).write_text(text)
        text = (ROOT / "monitoring" / "alertmanager" / "alertmanager.yml").read_text()
        if self._webhook:
            text = text.replace("http://127.0.0.1:9095/alerts", self._webhook)
        if self._hurry:
            text = re.sub(r"\bgroup_(wait|interval): \d+[smh]", r"group_\1: 1s", text)
        (self.home / "alertmanager.yml").write_text(text)
        self._run(
            alertmanager,
            f"--config.file={self.home / 'alertmanager.yml'}",
            f"--storage.path={self.home / 'alerts'}",
            f"--web.listen-address={self.alertmanager.removeprefix('http://')}",
            "--cluster.listen-address=",
        )
        self._run(
            prometheus,
            f"--config.file={self.home / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.home / 'data'}",
            f"--web.listen-address={self.prometheus.removeprefix('http://')}",
        )
        for url in (self.alertmanager, self.prometheus):
            self._ready(f"{url}/-/ready")

    def _run(self, *argv: str) -> None:
        log = self.home / f"{Path(argv[0]).name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.home)
        self._processes.append(process)

    def _ready(self, url: str) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args} ended with {process.returncode}; its log is in {self.home}")
            with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=2):
                return
            time.sleep(0.05)
        raise RuntimeError(f"not ready within 30 s: {url}")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression: [{metric: labels, value: [time, text]}]. Raises ValueError."""
        url = f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode()}") from None

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=20)


CONFIG = """\
worker: {{name: {name}, host: {host}, slots: 4, state_dir: "{state}", queues: [default, reviews]}}
metrics: {{port: 0}}
accounts: {{demo-account: {{}}}}
executors:
  work: {{kind: python, handler: "turbo.testing:sleep", account: demo-account}}
  flaky: {{kind: python, handler: "turbo.testing:fail_once"}}
  broken: {{kind: python, handler: "turbo.testing:fail"}}
routes: {{default: work, flaky: flaky, broken: broken}}
retry: {{base_seconds: 1, max_seconds: 5}}
"""
FLEET = (("alpha", "alpha-1"), ("alpha", "alpha-2"), ("beta", "beta-1"))


@contextlib.contextmanager
def workers(dsn: str, scratch: Path) -> Iterator[list[dict[str, Any]]]:
    """Three workers on two "hosts"; yields their targets."""
    started = []
    try:
        for host, name in FLEET:
            config = scratch / f"{name}.yaml"
            config.write_text(CONFIG.format(name=name, host=host, state=scratch / "state" / host))
            with (scratch / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [TURBO, "worker", "--config", config], env={**os.environ, "TURBO_DSN": dsn}, stderr=log
                )
            started.append(process)
        with psycopg.connect(dsn, autocommit=True) as db:
            while True:
                rows = db.execute("select host, name, metrics_address from agent_workers where state = 'up'").fetchall()
                if len(rows) == len(FLEET):
                    break
                if any(p.poll() is not None for p in started):
                    raise RuntimeError(f"a worker ended; see {scratch}/*.log")
                time.sleep(0.05)
        yield [{"targets": [address], "labels": {"host": host, "worker": name}} for host, name, address in rows]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=60)


def load(db: psycopg.Connection[Any]) -> None:
    """A second's worth of tasks: most succeed, some after a retry, a few fail; some are for later."""
    for _ in range(random.randint(1, 4)):
        task_type = random.choices(["work", "flaky", "broken"], [20, 2, 1])[0]
        db.execute(
            "insert into agent_tasks (task_type, task_description, input_data, queue, max_retries)"
            " values (%s, 'a planted failure', %s, %s, 1)",
            [
                task_type,
                json.dumps({"seconds": random.expovariate(0.5)}),
                random.choice(["default", "default", "reviews"]),
            ],
        )


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="turbo-monitoring-") as name, embedded.temporary() as server:
        scratch = Path(name)
        monitoring = Monitoring(scratch)
        subprocess.run([TURBO, "migrate"], env={**os.environ, "TURBO_DSN": server.dsn}, check=True)
        try:
            with workers(server.dsn, scratch) as targets, psycopg.connect(server.dsn, autocommit=True) as db:
                monitoring.targets(targets)
                monitoring.start()
                print(f"database      {server.dsn}")
                for target in targets:
                    labels = target["labels"]
                    print(
                        f"worker        http://{target['targets'][0]}/metrics  ({labels['host']}, {labels['worker']})"
                    )
                print(f"Prometheus    {monitoring.prometheus}/graph, alerts at {monitoring.prometheus}/alerts")
                print(f"Alertmanager  {monitoring.alertmanager}")
                print(
                    "dashboards    monitoring/grafana/dashboards/*.json: import them into a Grafana on that Prometheus"
                )
                print("Ctrl-C ends all of it.", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        load(db)
                        time.sleep(1)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave anything behind
        except Missing as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            monitoring.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
