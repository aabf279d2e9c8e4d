"""`python -m benchmarks.transcript_cost`: the run time of the real Claude CLI with transcripts on and off, side by side.

One worker has two executors that differ in `transcripts` alone. Their tasks alternate, one at a time, so that whatever the host does
falls on both. Each run is a call of a tool and an answer, against a loopback API that answers at once: the shortest run there is, in
which the transcript costs the largest share.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.support import messages_api
from tests.support.accounts import GOOD, accounts_bench
from tests.support.claude import bash
from turbo import embedded
from turbo.migrate import migrate


def migrated(dsn: str) -> str:
    migrate(dsn)
    return dsn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
    with (
        tempfile.TemporaryDirectory() as place,
        embedded.temporary(trust=True) as server,
        accounts_bench(migrated(server.dsn), Path(place)) as bench,
    ):
        config = bench.claude("alpha", login={"ANTHROPIC_API_KEY": GOOD}, allowed_tools=["Bash"])
        on = config["executors"]["claude"]
        config["executors"] |= {"on": {**on, "transcripts": True}, "off": {**on, "transcripts": False}}
        config["routes"] |= {"on": "on", "off": "off"}
        bench.start(config, bench.settings()).listening()
        seconds: dict[str, list[float]] = {"on": [], "off": []}
        for number in range(pairs + 1):
            for kind in ("on", "off") if number % 2 else ("off", "on"):
                bench.api.answer(bash("seq 1 1000"), messages_api.text("they are a thousand"))
                bench.task(f"{kind}{number}", "count", task_type=kind)
                took = bench.wait(f"{kind}{number}", seconds=120)["execution_time_ms"] / 1000
                if number:  # the first pair warms up
                    seconds[kind].append(took)
        ((size, batches),) = bench.sql("select sum(length(lines)), count(*) from agent_transcripts")
        ((disk,),) = bench.sql("select pg_total_relation_size('agent_transcripts')")
    ratios = [a / b for a, b in zip(seconds["on"], seconds["off"], strict=True)]
    print(
        f"{pairs} pairs; {size / (pairs + 1):,.0f} characters and {batches / (pairs + 1):.1f} batches a run, {disk:,} bytes on disk"
    )
    for kind, took in seconds.items():
        print(f"{kind:3}  median {statistics.median(took):.3f} s  fastest {min(took):.3f} s")
    print(f"ratio of medians {statistics.median(seconds['on']) / statistics.median(seconds['off']):.3f}")
    print(f"median of the pairs' ratios {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
