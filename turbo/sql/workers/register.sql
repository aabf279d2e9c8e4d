-- A worker registers at its start, and again if its row is gone or marked dead. It writes every column: workers/prune.sql
-- may have created the row, and then it names no queue and would keep the notify gate shut.
insert into public.agent_workers as w
       (worker_id, name, host, pid, version, slots, queues, labels, accounts, metrics_address, state, idle,
        heartbeat_seconds, lease_seconds, poll_seconds, schema)
values (%(worker)s, %(name)s, %(host)s, %(pid)s, %(version)s, %(slots)s, %(queues)s, %(labels)s::jsonb, %(accounts)s,
        %(metrics_address)s, %(state)s, false, %(heartbeat)s, %(lease)s, %(poll)s, %(schema)s)
on conflict (worker_id) do update
   set name = excluded.name, host = excluded.host, pid = excluded.pid, version = excluded.version, slots = excluded.slots,
       queues = excluded.queues, labels = excluded.labels, accounts = excluded.accounts, state = excluded.state,
       heartbeat_at = clock_timestamp(), silent_beats = 0, counted_at = null, metrics_address = excluded.metrics_address,
       heartbeat_seconds = excluded.heartbeat_seconds, lease_seconds = excluded.lease_seconds,
       poll_seconds = excluded.poll_seconds, schema = excluded.schema
