-- Scheduler: what is due, and when the next slot is. Asked at a slot, after a change, and where a poll saw something due
-- (turbo.worker.scheduler). Nothing is locked; what it saw is fenced when it is fired (turbo_fire). The database's clock goes with the
-- answer: slots are computed from it alone. now: the present, for tests; null: the clock. aside: names that are left out, because
-- somebody has them locked. watched: some schedule pauses itself after failures. Due are schedules whose slot has come, and those whose
-- next slot nobody has computed yet; not what a person must mend (no next slot, and an error).
select jsonb_build_object(
         'now', n.now,
         'clock', extract(epoch from n.now),
         'next', (select extract(epoch from s.next_at) from public.agent_schedules s
                   where s.enabled and s.next_at is not null and s.next_at > n.now order by s.next_at limit 1),
         'watched', exists (select from public.agent_schedules s where s.enabled and s.max_failures is not null),
         'due', coalesce((
           select jsonb_agg(jsonb_build_object('name', d.name, 'cron', d.cron, 'timezone', d.timezone, 'catch_up', d.catch_up,
                                               'since', d.since, 'last_at', d.last_at, 'next_at', d.next_at, 'rev', d.rev)
                            order by d.next_at nulls first, d.name)
             from (select s.name, s.cron, s.timezone, s.catch_up, s.since, s.last_at, s.next_at, s.rev
                     from public.agent_schedules s
                    where s.enabled and (s.next_at is not null or s.error is null)
                      and (s.next_at is null or s.next_at <= n.now)
                      and s.name <> all (%(aside)s::text[])
                    order by s.next_at nulls first
                    limit %(most)s) d), '[]')) as look
  from (select coalesce(%(now)s::timestamptz, statement_timestamp()) as now) n
