-- Client.limits.of: one key, whether it has a limit or not (then one runs at a time), with what runs and what waits of it. waiting: counted up
-- to most_waiting. Looks into agent_tasks_one_running_per_place and agent_tasks_waiting_key.
select k.key as concurrency_key,
       coalesce((select l.running from public.agent_limits l where l.concurrency_key = k.key), 1) as "limit",
       (select count(*) from public.agent_tasks r where r.status = 'running' and r.concurrency_key = k.key)::int as running,
       (select count(*) from (select from public.agent_tasks w where w.status = 'pending' and w.concurrency_key = k.key
                               limit %(most_waiting)s) w)::int as waiting
  from (select %(key)s::text) k(key)
