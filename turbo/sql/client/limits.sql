-- Client.limits.list and get: the limits by key, with what runs and what waits of each; `keys` null: all of them. waiting: pending tasks,
-- counted up to most_waiting. Reads the limits once, or by their keys, and for each its tasks in agent_tasks_one_running_per_place and
-- agent_tasks_waiting_key.
select l.concurrency_key, l.running as "limit",
       (select count(*) from public.agent_tasks r where r.status = 'running' and r.concurrency_key = l.concurrency_key)::int as running,
       (select count(*) from (select from public.agent_tasks w where w.status = 'pending' and w.concurrency_key = l.concurrency_key
                               limit %(most_waiting)s) w)::int as waiting
  from public.agent_limits l
 where %(keys)s::text[] is null or l.concurrency_key = any (%(keys)s::text[])
 order by l.concurrency_key
 limit %(limit)s
