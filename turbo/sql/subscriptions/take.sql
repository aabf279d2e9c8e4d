-- A worker takes a subscription for `lease` seconds, if nobody else has it: the holder before it released it, let its lease end, or is
-- dead. server: which server this is; another one than in the position means a restore or a failover. timeline: it counts promotions.
-- A row that a person has locked is left alone.
with free as (
  select s.name
    from public.agent_subscriptions s
   where s.name = %(name)s::text and s.enabled and s.target = any (%(targets)s::text[])
     and (s.next_at is null or s.next_at <= clock_timestamp())
     and (s.holder is null or s.holder = %(worker)s::text or s.held_until <= clock_timestamp()
          or not exists (select from public.agent_workers w where w.worker_id = s.holder and w.state <> 'dead'))
     for update skip locked
)
update public.agent_subscriptions s
   set holder = %(worker)s::text, held_until = clock_timestamp() + make_interval(secs => %(lease)s::float8)
  from free f
 where s.name = f.name
returning s.events, s.queue, s.task_type, s.target, s.position, s.failures, s.looked_at, s.updated_at,
          (select c.system_identifier::text from pg_control_system() c)
            || '/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) as server
