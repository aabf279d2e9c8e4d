"""targets.json: where Prometheus scrapes the fleet (file_sd), labels host and worker.

A host's address is its `address`; else its `ssh` host; else 127.0.0.1 if it is the only host without `ssh`, and so this
machine; else its name in the file. A worker listens on 127.0.0.1 unless metrics.host in its worker.yaml is set.
"""

import json
from collections.abc import Iterable

from turbo.fleet.instance import Host


def targets(hosts: Iterable[Host]) -> str:
    """The file's text. One entry per worker."""
    entries = [
        {"targets": [f"{host.address}:{instance.metrics_port}"], "labels": {"host": host.name, "worker": instance.name}}
        for host in hosts
        for instance in host.workers
    ]
    return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n]\n"
