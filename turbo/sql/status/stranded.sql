-- Status: tasks that only one host may run (prefer_host has their conversation, and it cannot be had elsewhere), where no live worker of
-- that host serves their queue.
-- Bounded: what waits for a person, by agent_tasks_at_rest, and of each served queue the first `most` pending tasks, in claim order.
with served as (
  select distinct w.host, q.queue
    from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state in ('up', 'paused') and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
         and clock_timestamp() + make_interval(secs => w.lease_seconds)
), pinned as (
  select t.task_id::text as task_id, t.queue, t.status::text as status, t.prefer_host as host
    from public.agent_tasks t
   where t.status = 'waiting' and t.prefer_host is not null
     and not public.turbo_is_portable(t.task_id::public.turbo_task_id, t.agent_session_id::text)
  union all
  select p.task_id::text, p.queue, p.status::text, p.prefer_host
    from (select distinct s.queue from served s) n
   cross join lateral (select t.task_id, t.queue, t.status, t.prefer_host, t.agent_session_id
                         from public.agent_tasks t
                        where t.status = 'pending' and t.queue = n.queue
                        order by t.task_priority desc nulls last, t.run_after
                        limit %(most)s) p
   where p.prefer_host is not null
     and not public.turbo_is_portable(p.task_id::public.turbo_task_id, p.agent_session_id::text)
)
select p.queue, p.host, min(p.task_id) as task_id, count(*)::int as tasks,
       (count(*) filter (where p.status = 'waiting'))::int as waiting
  from pinned p
 where not exists (select from served s where s.host = p.host and s.queue = p.queue)
 group by p.queue, p.host
 order by count(*) desc, p.queue, p.host
 limit 20
