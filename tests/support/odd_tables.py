"""Five tables as deployments have them, each odd in its own ways, and an old poller that works on any of them."""

import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

POLLER = "old-poller-1"


@dataclass(frozen=True)
class OddTable:
    """`create` makes it, `fill` puts `%(rows)s` rows into it; `claimed`: what its poller calls a row it works on.
    `adds`: columns of its own that an INSERT of its writers sets."""

    name: str
    create: str
    fill: str
    claimed: str = "running"
    rows: int = 3_000
    adds: str = ""

    def make(self, connection: psycopg.Connection, rows: int | None = None) -> None:
        connection.execute(self.create.encode())
        connection.execute(self.fill, {"rows": rows or self.rows})


PREDECESSOR = OddTable(
    "predecessor",
    """
    create table agent_sessions (session_id varchar(100) primary key, started timestamp default now());
    insert into agent_sessions values ('s1'), ('s2');
    create table agent_tasks (
      task_id varchar(100) primary key,
      session_id varchar(100) references agent_sessions (session_id),
      task_type varchar(50) not null,
      task_description text not null,
      task_priority integer default 5 constraint from_1_to_10 check (task_priority between 1 and 10),
      input_data jsonb,
      status varchar(20) default 'pending'
        constraint known_status check (status in ('pending', 'assigned', 'in_progress', 'completed', 'failed')),
      output_data jsonb,
      error_message text,
      execution_time_ms integer,
      assigned_worker_id varchar(50),
      timeout_seconds integer default 300,
      max_retries integer default 3,
      retry_count integer default 0,
      created_at timestamp default current_timestamp,
      started_at timestamp,
      completed_at timestamp);
    create index old_status on agent_tasks (status, task_priority desc);
    create view worker_load as select assigned_worker_id, count(*) as tasks from agent_tasks group by 1;
    create table agent_actions (
      action_id serial primary key,
      task_id varchar(100) references agent_tasks (task_id),
      action_type varchar(50) not null,
      success boolean,
      executed_at timestamp default now(),
      execution_time_ms integer,
      details jsonb)""",
    """
    insert into agent_tasks (task_id, session_id, task_type, task_description, task_priority, status, created_at, started_at,
                             completed_at, assigned_worker_id, output_data)
    select 'old_' || i, 's' || i %% 2 + 1, 'analysis', 'Analyze module ' || i, nullif(i %% 11, 0), s.status,
           now() - make_interval(secs => %(rows)s - i), case when s.status <> 'pending' then now() end,
           case when s.status in ('completed', 'failed') then now() end,
           case when s.status <> 'pending' then 'ALPHA-worker-' || i %% 9 end,
           case when s.status = 'completed' then '{"x": 1}'::jsonb end
      from generate_series(1, %(rows)s::int) i
      cross join lateral (select case when i > %(rows)s - 40 then 'pending'
                                      else (array['completed', 'failed', 'assigned', 'in_progress'])[1 + i %% 4] end) s(status)""",
    claimed="assigned",
    rows=100_000,
)

UUIDS = OddTable(
    "uuids",
    """
    create table agent_tasks (
      task_id uuid primary key default gen_random_uuid(),
      task_type text,
      task_description text,
      task_priority smallint,
      input_data json,
      status varchar(12) not null default 'pending',
      output_data jsonb,
      error_message text,
      execution_time_ms integer,
      assigned_worker_id text,
      timeout_seconds bigint,
      max_retries smallint,
      retry_count smallint,
      created_at timestamptz,
      started_at timestamptz,
      completed_at timestamptz,
      constraint waiting_is_nobodys check ((status = 'pending') = (assigned_worker_id is null))) with (fillfactor = 70);
    create materialized view by_type as select task_type, count(*) from agent_tasks group by 1""",
    """
    insert into agent_tasks (task_type, task_description, task_priority, status, created_at, assigned_worker_id)
    select 'analysis', 'x', nullif(i %% 4, 0), s.status, clock_timestamp() - make_interval(secs => %(rows)s - i),
           case when s.status <> 'pending' then 'w' end
      from generate_series(1, %(rows)s::int) i
      cross join lateral (select case when i > %(rows)s - 40 then 'pending' else 'completed' end) s(status)""",
)

ENUM = OddTable(
    "enum",
    """
    create schema app;
    create type app.task_state as enum ('pending', 'running', 'completed', 'failed', 'on hold');
    create table agent_tasks (
      task_id serial primary key,
      task_type varchar(30) not null,
      task_description text not null,
      task_priority integer not null,
      input_data jsonb,
      status app.task_state not null default 'pending',
      output_data jsonb,
      error_message text,
      execution_time_ms integer,
      assigned_worker_id varchar(64),
      timeout_seconds integer not null default 60,
      max_retries integer not null default 2,
      retry_count integer not null default 0,
      created_at timestamptz not null default now(),
      started_at timestamptz,
      completed_at timestamptz,
      updated_at timestamptz not null default now());
    create table task_log (task_id integer references agent_tasks on delete cascade, became app.task_state);
    create function touch() returns trigger language plpgsql as $$ begin new.updated_at := clock_timestamp(); return new; end $$;
    create function log_it() returns trigger language plpgsql as
      $$ begin insert into public.task_log values (new.task_id, new.status); return null; end $$;
    create trigger touch before update on agent_tasks for each row execute function touch();
    create trigger log_it after update of status on agent_tasks for each row execute function log_it();
    create table agent_actions (
      action_id varchar(64) primary key,
      task_id integer,
      action_type text not null,
      success boolean not null,
      executed_at timestamptz not null,
      execution_time_ms integer,
      note text)""",
    """
    insert into agent_tasks (task_type, task_description, task_priority, status, created_at, assigned_worker_id)
    select 'analysis', 'x', 1 + i %% 5,
           (case when i > %(rows)s - 40 then 'pending' else (array['completed', 'on hold', 'running'])[1 + i %% 3] end)::app.task_state,
           now() - make_interval(secs => %(rows)s - i), 'other-' || i %% 3
      from generate_series(1, %(rows)s::int) i""",
    adds="task_priority",
)

PARTITIONED = OddTable(
    "partitioned trail",
    """
    create domain state_name as varchar(30) check (value = lower(value));
    create table agent_tasks (
      task_id bigint generated always as identity primary key,
      task_type text not null default 'default',
      task_description text not null,
      task_priority bigint default 5,
      input_data jsonb,
      status state_name not null default 'pending',
      output_data jsonb,
      error_message text,
      execution_time_ms bigint,
      assigned_worker_id varchar(100),
      timeout_seconds integer default 300,
      max_retries integer default 3,
      retry_count integer default 0,
      created_at timestamptz default now(),
      started_at timestamptz,
      completed_at timestamptz,
      scheduled_for timestamptz,
      tenant text not null default 'us');
    create table agent_actions (
      action_id bigint generated by default as identity,
      task_id bigint,
      action_type varchar(20) not null,
      success boolean,
      executed_at timestamptz not null default now(),
      execution_time_ms bigint,
      primary key (action_id, executed_at)) partition by range (executed_at);
    create table agent_actions_old partition of agent_actions for values from (minvalue) to ('2026-01-01');
    create table agent_actions_now partition of agent_actions for values from ('2026-01-01') to (maxvalue)""",
    """
    with tasks as (
      insert into agent_tasks (task_type, task_description, task_priority, status, created_at, scheduled_for)
      select 'analysis', 'x', null, case when i > %(rows)s - 40 then 'pending' else 'completed' end,
             now() - make_interval(secs => %(rows)s - i), now() - interval '1 day'
        from generate_series(1, %(rows)s::int) i
      returning task_id
    )
    insert into agent_actions (task_id, action_type, executed_at)
    select task_id, 'created', timestamptz '2025-12-31' + make_interval(mins => task_id::int) from tasks""",
)

BARE = OddTable(
    "bare",
    """
    create table agent_tasks (
      task_id integer primary key,
      task_description text,
      status text,
      queue varchar(60),
      created_at timestamp,
      assigned_worker_id text,
      started_at timestamp,
      completed_at timestamp,
      "Owner" text)""",
    """
    insert into agent_tasks (task_id, task_description, status, created_at, "Owner")
    select i, 'x', case when i > %(rows)s - 40 then 'pending' when i %% 50 = 0 then 'scheduled' when i %% 7 = 0 then null
                        else 'DONE' end, now()::timestamp - make_interval(secs => %(rows)s - i), 'me'
      from generate_series(1, %(rows)s::int) i""",
)

ODD_TABLES = (PREDECESSOR, UUIDS, ENUM, PARTITIONED, BARE)


@dataclass
class OldPoller:
    """Claims the oldest pending row, works on it for an instant, completes it; and so on, every `pause` seconds. Before each
    claim a writer of the old kind inserts a row.

    Its session refuses to wait for a lock for longer than `patience` seconds: a statement that would have is in `errors`."""

    dsn: str
    table: OddTable
    patience: float
    pause: float = 0.1
    ran: Counter[str] = field(default_factory=Counter)
    inserted: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> "OldPoller":
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)

    def does(self, more: int) -> None:
        """Wait until it has done `more` rows from now on."""
        with self._changed:
            goal = self.ran.total() + more
            done = self._changed.wait_for(lambda: self.ran.total() >= goal or self.errors, timeout=60)
            assert done, f"the poller stands still at {self.ran.total()}"
            assert not self.errors

    def _work(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True, application_name="old poller") as connection:
            connection.execute("select set_config('lock_timeout', %s, false)", (f"{self.patience}s",))
            while not self._over.wait(self.pause):
                try:
                    self._insert(connection)
                    self._one(connection)
                except psycopg.Error as error:
                    with self._changed:
                        self.errors.append(str(error))
                        self._changed.notify_all()

    def _insert(self, connection: psycopg.Connection) -> None:
        names = ["task_description", "status", "created_at"]
        values: list[object] = ["new", "pending", "now"]
        if self.table.name != "bare":
            names.append("task_type")
            values.append("analysis")
        if self.table.adds:
            names.append(self.table.adds)
            values.append(3)
        if self.table.name == "predecessor":
            names.append("task_id")
            values.append(f"new_{uuid.uuid4().hex[:8]}")
        numbered = sql.SQL("task_id, ") if self.table.name == "bare" else sql.SQL("")
        number = (
            sql.SQL("(select max(task_id) + 1000 from agent_tasks), ") if self.table.name == "bare" else sql.SQL("")
        )
        row = connection.execute(
            sql.SQL("insert into agent_tasks ({}{}) values ({}{}) returning task_id::text").format(
                numbered,
                sql.SQL(", ").join(map(sql.Identifier, names)),
                number,
                sql.SQL(", ").join(sql.Placeholder() * len(values)),
            ),
            values,
        ).fetchone()
        assert row
        self.inserted.append(row[0])

    def _one(self, connection: psycopg.Connection) -> None:
        with connection.transaction():
            row = connection.execute(
                "select task_id from agent_tasks where status = 'pending' order by created_at limit 1 for update skip locked"
            ).fetchone()
            if row is None:
                return
            connection.execute(
                sql.SQL(
                    "update agent_tasks set status = {}, assigned_worker_id = %s, started_at = now() where task_id = %s"
                ).format(sql.Literal(self.table.claimed)),
                (POLLER, row[0]),
            )
        connection.execute("update agent_tasks set status = 'completed', completed_at = now() where task_id = %s", row)
        with self._changed:
            self.ran[str(row[0])] += 1
            self._changed.notify_all()
