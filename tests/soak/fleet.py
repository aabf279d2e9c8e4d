"""Four workers on two hosts' worth of state directories, a supervisor that starts again whatever ended, and a load with a
ledger outside turbo: keys, priorities, tasks that fail once, tasks that fail always, tasks that ask, light ones; and schedules."""

import contextlib
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import psycopg
from psycopg import conninfo

from tests.model.truth import trail_holds
from tests.soak.cluster import Cluster, a_cluster
from tests.soak.graphs import OF_GRAPHS, Graphs, too_many_at_once
from tests.soak.schedules import KEY, Schedules
from tests.support.proxy import Proxy, proxy
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded
from turbo.domain.states import FINAL

HOSTS = ("alpha", "alpha", "beta", "beta")
SLOTS = 3
QUEUE = "default"
LEASE_SECONDS = 5
BACKLOG = 60
PROGRAM = """input=$(cat)
given() { v=$(printf '%s' "$input" | grep -o "\\"$1\\": *\\"[0-9.]*\\"" | head -1 | grep -o '[0-9.]*'); printf '%s' "${v:-0}"; }
said=$(printf '%s' "$input" | grep -o 'M<[^>]*>' | sort -u | tr '\\n' ',')
printf '%s begin %s %s\\n' "$TURBO_TASK_ID" "$$" "$said" >>"$1"; sleep "$(given seconds)"
asks=$(given asks) number=0
while [ "$number" -lt "$asks" ]; do
  case "$input" in *"A<$TURBO_TASK_ID.q$number>"*) told="$told A<$TURBO_TASK_ID.q$number>" ;;
  *) printf '{"ask": {"text": "%s.q%s"}}' "$TURBO_TASK_ID" "$number"; exit 76 ;; esac
  number=$((number + 1))
done
printf '%s end %s\\n' "$TURBO_TASK_ID" "$$" >>"$1"
printf '{"task": "%s", "told": "%s"}' "$TURBO_TASK_ID" "${told# }"; test "$TURBO_ATTEMPT" -gt "$(given fails)"
"""
"""It asks the first question that it has no answer to: a failover can lose an answer of which a later question has come in."""


MISCOUNTED = """
select t.task_id from agent_tasks t left join agent_blocked b using (task_id)
 where t.status = 'blocked' and (t.needs is not null or t.continues is not null)
   and not exists (select from agent_unsettled u where u.task_id = t.task_id)
   and (b.task_id is null or b.failed_need is null and b.needs_left <>
        (select count(*) from agent_dependencies d where d.task_id = t.task_id and not d.settled))
"""
"""Tasks that wait, of which no note speaks, and whose count is not that of their open needs: in one snapshot there is none."""


UNFINISHED = "select count(*) from agent_tasks where status not in ('completed', 'failed', 'cancelled')"
LIMITS = {"k0": 3, "k1": 2, "k2": 10}
"""How many tasks of a key run at a time; of the others, one."""


@dataclass
class Fleet:
    """`tasks`: how many are inserted; None: as many as can be until `enough`."""

    cluster: Cluster
    bench: Bench
    wire: Proxy
    random: Random
    tasks: int | None
    workers: list[WorkerProcess] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)  # pids that are frozen at the moment
    accepted: dict[str, int] = field(default_factory=dict)  # task → how many of its first tries fail
    columns: dict[str, dict[str, object]] = field(default_factory=dict)  # as they were inserted
    asking: dict[str, int] = field(default_factory=dict)  # task → how many questions it asks
    touched: set[str] = field(default_factory=set)  # by hand
    deleted: set[str] = field(default_factory=set)
    graphs: Graphs = field(default_factory=Graphs)
    told: Told = field(default_factory=Told)
    schedules: Schedules = field(default_factory=Schedules)
    miscounted: set[str] = field(default_factory=set)
    looks: int = 0
    crashes: int = 0  # of the server, failovers included: they forget claims that were not on disk
    failovers: int = 0
    inserted_again: int = 0  # what a failover lost
    writing: threading.Lock = field(default_factory=threading.Lock)  # of what people here know to be written
    restarts: int = 0
    became: "Counter[str]" = field(default_factory=Counter)  # of the messages, afterwards
    _stop: threading.Event = field(default_factory=threading.Event)
    _quiet: threading.Event = field(default_factory=threading.Event)

    @property
    def server(self) -> embedded.Server:
        return self.cluster.primary

    def config(self, n: int) -> dict[str, Any]:
        config = self.bench.config(
            name=f"w{n}", host=HOSTS[n], slots=SLOTS, state_dir=str(self.bench.path / HOSTS[n]),
            heartbeat_seconds=1, lease_seconds=LEASE_SECONDS, poll_seconds=5, drain_seconds=2,
        )  # fmt: skip
        program = self.bench.path / "run.sh"
        if (
            not program.exists()
        ):  # a shell reads it as it runs it: one that is written anew ends early, and with success
            program.write_text(PROGRAM)
        command = ["/bin/sh", str(program), str(self.bench.ledger)]
        config["executors"]["work"] = {"kind": "command", "command": command, "grace_seconds": 1, "ask": {}}
        config["routes"]["default"] = "work"
        return config

    def limit(self) -> None:
        """Write the limits, before anything else."""
        for key, running in LIMITS.items():
            self.bench.sql("insert into agent_limits values (%s, %s)", key, running)

    def start(self, n: int) -> WorkerProcess:
        return self.bench.start(self.config(n), dsn=conninfo.make_conninfo(self.server.dsn, port=self.wire.port))

    def supervise(self) -> None:
        """As launchd and systemd do."""
        while not self._stop.wait(0.1):
            for n, worker in enumerate(self.workers):
                if worker.process.poll() is not None:
                    self.restarts += 1
                    self.workers[n] = self.start(n)

    def feed(self) -> None:
        """All tasks, a backlog at a time. What the database did not acknowledge is sent again under the same ids."""
        dice = Random(self.random.random())
        for number in itertools.count():
            if self._stop.is_set() or (self.tasks is not None and number >= self.tasks):
                return
            columns, fails = self._choose(dice, f"t{number}")
            while not self._stop.is_set():
                try:
                    waiting = self.bench.sql("select count(*) from agent_tasks where status = 'pending'")[0][0]
                    if waiting < BACKLOG:
                        with self.writing:
                            if self.tasks is None or len(self.accepted) < self.tasks:
                                self._accept(columns, fails)
                        break
                except psycopg.Error:
                    pass
                self._stop.wait(0.05)

    def _choose(self, dice: Random, task_id: str) -> tuple[dict[str, object], int]:
        """Columns of the next task, and how many of its tries fail."""
        kind = dice.random()
        fails = 9 if kind < 0.03 else 1 if kind < 0.10 else 0
        key = f"k{dice.randrange(5)}" if dice.random() < 0.15 else None
        asks = dice.randrange(1, 4) if 0.1 <= kind < 0.25 else 0
        data = f'{{"seconds": "{dice.choice((0, 0, 0.1, 0.3, 1.0))}", "fails": "{fails}", "asks": "{asks}"}}'
        self.asking[task_id] = asks
        more = self.graphs.choose(dice, [t for t in self.accepted if t not in self.deleted])
        columns: dict[str, object] = {
            "task_id": task_id, "task_description": "x", "task_type": "echo" if fails == 0 and kind > 0.6 else "work",
            "input_data": data, "task_priority": dice.randrange(10), "max_retries": 2,
            "concurrency_key": None if "continues" in more else key, **more,
        }  # fmt: skip
        return columns, fails

    def _accept(self, columns: dict[str, object], fails: int) -> None:
        """Insert it. Where what it waits for is deleted, or never ran, it is a task of its own."""
        task_id = str(columns["task_id"])
        try:
            self._insert(columns)
        except psycopg.errors.ForeignKeyViolation:
            columns = {name: value for name, value in columns.items() if name not in OF_GRAPHS}
            self._insert(columns)
        self.accepted[task_id], self.columns[task_id] = fails, columns
        self.graphs.accepted(task_id, {name: columns[name] for name in OF_GRAPHS if name in columns})

    def fail_over(self) -> None:
        """The standby takes over, and what it had not received never happened. People insert again what is gone, and know of no
        message that is."""
        with self.writing:
            self.cluster.take_over()
            self.bench.dsn = self.cluster.primary.dsn
            self.wire.turn_to(self.cluster.primary.port)
            self.crashes, self.failovers = self.crashes + 1, self.failovers + 1
            there = {row[0] for row in self.bench.sql("select task_id from agent_tasks")}
            self.deleted -= there
            for task_id in [t for t in self.accepted if t not in there and t not in self.deleted]:
                self.graphs.forget(task_id)
                self._accept(self.columns[task_id], self.accepted[task_id])
                self.inserted_again += 1
            self.told.forget({row[0] for row in self.bench.sql("select body from agent_messages")})
            self.schedules.failed_over(self.bench, self.cluster.received)

    def tell(self) -> None:
        """A person who tells tasks something, until everything is to come to its end."""
        dice = Random(self.random.random())
        for number in itertools.count():
            self._quiet.wait(dice.uniform(0.02, 0.3))
            with contextlib.suppress(psycopg.Error), self.writing:
                if self._quiet.is_set():
                    return
                self.told.tell(self.bench, dice, number)

    def plan(self) -> None:
        """A person who adds, edits, pauses and removes schedules, until everything is to come to its end."""
        dice = Random(self.random.random())
        while not self._quiet.wait(dice.uniform(0.2, 2.0)):
            with contextlib.suppress(psycopg.Error), self.writing:
                if not self._quiet.is_set():
                    self.schedules.act(self.bench, dice)

    def look(self) -> None:
        """Nobody's count is wrong at any moment."""
        with contextlib.suppress(psycopg.Error):
            self.miscounted |= {row[0] for row in self.bench.sql(MISCOUNTED)}
            self.looks += 1

    def _insert(self, columns: dict[str, object]) -> None:
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        self.bench.sql(f"insert into agent_tasks ({names}) values ({places}) on conflict do nothing", *columns.values())

    def answer(self) -> None:
        """A person who answers what is asked, in random order, some of it twice: the second answer is refused."""
        dice = Random(self.random.random())
        query = (
            "select task_id, question ->> 'text' from agent_tasks where status = 'waiting' order by random() limit 5"
        )
        while not self._stop.wait(0.1):
            with contextlib.suppress(psycopg.OperationalError):
                for task_id, text in self.bench.sql(query):
                    for _ in range(dice.randrange(1, 3)):
                        with contextlib.suppress(psycopg.errors.ObjectNotInPrerequisiteState):
                            update = (
                                "update agent_tasks set answer = %s where task_id = %s and question ->> 'text' = %s"
                            )
                            self.bench.sql(f"{update} returning 1", f"A<{text}>", task_id, text)

    def open(self) -> int:
        """How many tasks are not over, those not inserted yet included, without those of schedules, which never end; one at least
        while the database is away."""
        try:
            left = f"{UNFINISHED} and not coalesce(starts_with(idempotency_key, '{KEY}'), false)"
            to_come = 1 if self.tasks is None else max(0, self.tasks - len(self.accepted))
            return to_come + int(self.bench.sql(left)[0][0])
        except psycopg.Error:
            return 1

    def enough(self) -> None:
        """No more tasks than there are."""
        with self.writing:
            self.tasks = len(self.accepted)

    def finish(self, seconds: float) -> None:
        """No more faults: everything thaws, and everything must come to its end; then the workers drain."""
        for pid in list(self.stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGCONT)
        self.wire.swallow = None
        with self.writing:
            self._quiet.set()
        self.bench.sql("delete from agent_queues")
        self.schedules.end(self.bench)
        over = lambda: self.open() == 0 and self.bench.sql(UNFINISHED) == [(0,)]  # noqa: E731
        until(over, seconds, lambda: f"everything is over\n{self.bench.logs()[-6000:]}")
        until(lambda: self.bench.sql("select turbo_unsettled()") == [(False,)], 30, "nothing is left to settle")
        self._stop.set()
        for worker in self.workers:
            assert worker.stop() == 0

    def stop(self) -> None:
        self._quiet.set()
        self._stop.set()

    # ── the truth, afterwards ───────────────────────────────────────────────────────────────────────────────────────

    def complaints(self) -> list[str]:
        """Everything that is not as promised; none of it by turbo's own account alone."""
        found: list[str] = []
        with psycopg.connect(self.server.dsn, row_factory=psycopg.rows.dict_row) as db:
            rows = {r["task_id"]: r for r in db.execute("select * from agent_tasks")}
            messages = {m["body"]: m for m in db.execute("select * from agent_messages")}
            entries_of: list[dict[str, Any]] = db.execute("select * from agent_actions order by action_id").fetchall()
            edges = [(e["task_id"], e["needs"]) for e in db.execute("select task_id, needs from agent_dependencies")]
            left = {
                table: db.execute(f"select count(*) as n from {table}").fetchone()["n"]  # type: ignore[index,arg-type]
                for table in ("agent_blocked", "agent_unsettled")
            }
        trail: dict[str, list[dict[str, Any]]] = {}
        for entry in entries_of:
            trail.setdefault(entry["task_id"], []).append(entry)
        self.became = self.told.became(messages)
        made = {t: r["continues"] for t, r in rows.items() if (r["idempotency_key"] or "").startswith("message ")}
        self.graphs.follows |= made
        scheduled = {t for t, r in rows.items() if (r["idempotency_key"] or "").startswith(KEY)}
        there = set(self.accepted) - self.deleted
        if set(rows) - set(made) - scheduled != there:
            found.append(f"lost: {there - set(rows)}; from nowhere: {set(rows) - set(made) - scheduled - there}")
        found += self.schedules.complaints(entries_of)
        found += [
            f"{t} is {rows[t]['status']} ({rows[t]['failure_kind']}), and nobody touched it"
            for t in scheduled - self.touched
            if rows[t]["status"] != "completed"
        ]
        found += self.graphs.complaints(rows, trail, left)
        found += [f"{task_id} waited, and its count was not that of its needs" for task_id in sorted(self.miscounted)]
        found += too_many_at_once(rows, entries_of, LIMITS)
        found += self.told.complaints(rows, trail, messages, self.deleted, self.heard())
        stirred = self.graphs.stirred(self.touched | self.deleted | set(made) | scheduled, edges)
        ends = {task_id: row["status"] for task_id, row in rows.items()}
        stirred |= self.graphs.after_a_cancelled_one(ends)
        begun, ended = self.ledger("begin"), self.ledger("end")
        tokens: Counter[int] = Counter()
        for task_id, row in rows.items():
            entries = trail.get(task_id, [])
            try:
                trail_holds(task_id, row, self.graphs.begins_as(task_id), entries)
            except AssertionError as error:
                found.append(str(error))
            claims = [e["fencing_token"] for e in entries if e["action_type"] == "claimed"]
            tokens.update(claims)
            if row["status"] not in FINAL:
                found.append(f"{task_id} is {row['status']}")
            if row["task_type"] == "work" and not self.crashes and begun[task_id] > len(claims):
                found.append(f"{task_id} ran {begun[task_id]} times and was claimed {len(claims)} times")
            if task_id not in stirred:
                found += self._untouched(task_id, row, entries, ended[task_id], ends)
        found += [f"token {t} was given {n} times" for t, n in tokens.items() if n > 1]
        found += [f"{p} lives on" for p in self.leftovers()]
        logs = {w.log_path.name: w.log for w in self.bench.workers}
        found += [
            f"{name}: {log[max(0, at - 500) : at + 6000]}"
            for name, log in logs.items()
            if (at := log.find("Traceback")) >= 0
        ]
        return found

    def _untouched(
        self, task_id: str, row: dict[str, Any], entries: list[dict[str, Any]], ended: int, ends: dict[str, str]
    ) -> Iterator[str]:
        """Nobody edited it, nor what it waits for: its end is what its program says, and what it needs."""
        always_fails = self.accepted[task_id] > 2 and row["task_type"] == "work"
        wanted = self.graphs.wanted(task_id, ends, "failed" if always_fails else "completed")
        if wanted == "cancelled":
            if row["status"] != wanted or row["failure_kind"] != "needs":
                yield f"{task_id} is {row['status']} ({row['failure_kind']}), and a task that it needs did not complete"
            return
        if row["status"] != wanted:
            yield f"{task_id} is {row['status']} ({row['failure_kind']}), not {wanted}"
        done = [e for e in entries if e["action_type"] == "finished" and e["to_status"] == "completed"]
        if len(done) != (not always_fails):
            yield f"{task_id} was recorded {len(done)} times"
        if row["task_type"] == "work" and not always_fails:
            if not ended:
                yield f"{task_id} is completed, and its program never came to its end"
            told = " ".join(f"A<{task_id}.q{n}>" for n in range(self.asking[task_id]))
            if (row["output_data"] or {}).get("output") != {"task": task_id, "told": told}:
                yield f"{task_id} has the output {row['output_data']}, and was to be told {told}"
            given = Counter(e["detail"]["question"]["text"] for e in entries if e["action_type"] == "answered")
            wanted_answers = Counter(f"{task_id}.q{n}" for n in range(self.asking[task_id]))
            if given != wanted_answers and (not self.failovers or given.keys() - wanted_answers.keys()):
                yield f"{task_id} was answered {given}"
        if row["retry_count"] > row["max_retries"]:
            yield f"{task_id} has {row['retry_count']} retries"

    def heard(self) -> dict[str, set[str]]:
        """By task: what its program was told at some start."""
        found: dict[str, set[str]] = {}
        for line in self.bench.ledger.read_text().splitlines():
            task_id, what, _, *said = line.split()
            if what == "begin" and said:
                found.setdefault(task_id, set()).update(said[0].split(","))
        return found

    def ledger(self, what: str) -> Counter[str]:
        if not self.bench.ledger.exists():
            return Counter()
        words = (line.split() for line in self.bench.ledger.read_text().splitlines())
        return Counter(word[0] for word in words if word[1] == what)

    def leftovers(self) -> list[int]:
        """ExecutorAvailability of tasks that outlived the fleet."""
        mine = str(self.bench.path / "run.sh")
        return [p.pid for p in psutil.process_iter(["cmdline"]) if mine in (p.info["cmdline"] or [])]


@contextlib.contextmanager
def fleet(path: Path, tasks: int | None, seed: int) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(a_cluster())
        wire = stack.enter_context(proxy("127.0.0.1", cluster.primary.port))
        one = Fleet(cluster, Bench(cluster.primary.dsn, path), wire, Random(seed), tasks)
        stack.callback(one.bench.close)
        one.limit()
        one.workers = [one.start(n) for n in range(len(HOSTS))]
        for worker in one.workers:
            worker.listening()
        threads = [
            threading.Thread(target=work, daemon=True)
            for work in (one.feed, one.supervise, one.answer, one.tell, one.plan)
        ]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join(30) for thread in threads])
        stack.callback(one.stop)
        yield one
