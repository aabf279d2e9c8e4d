-- A worker announces itself, at its start and whenever its row is gone or others declared it dead. Upsert, of everything:
-- the row may be one that sql/workers/prune.sql made up for it, which names no queue, and so would keep the gate shut.
insert into public.agent_workers as w
       (worker_id, name, host, pid, version, slots, queues, labels, accounts, metrics_address, state, idle,
        heartbeat_seconds, lease_seconds, poll_seconds)
values (%(worker)s, %(name)s, %(host)s, %(pid)s, %(version)s, %(slots)s, %(queues)s, %(labels)s::jsonb, %(accounts)s,
        %(metrics_address)s, %(state)s, false, %(heartbeat)s, %(lease)s, %(poll)s)
on conflict (worker_id) do update
   set name = excluded.name, host = excluded.host, pid = excluded.pid, version = excluded.version, slots = excluded.slots,
       queues = excluded.queues, labels = excluded.labels, accounts = excluded.accounts, state = excluded.state,
       heartbeat_at = clock_timestamp(), silent_beats = 0, counted_at = null, metrics_address = excluded.metrics_address,
       heartbeat_seconds = excluded.heartbeat_seconds, lease_seconds = excluded.lease_seconds,
       poll_seconds = excluded.poll_seconds
