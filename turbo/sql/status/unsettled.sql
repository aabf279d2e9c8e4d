-- Status and top: what the settler leaves undone. Bounded: the first 1,000 notes and the first 1,000 rows of agent_blocked_ready are
-- looked at, and workers.
-- 'idle': tasks that are blocked by nothing for over a minute: all that they need is over, or nobody has looked at them since their
-- insert. task_id: one of them. 'older': tasks wait in a queue that a worker from before the settler's schema serves, until it is dead: the
-- settler leaves that queue alone. worker_id: one such worker, of `workers`.
with noted as materialized (
  select distinct u.task_id from (select u.task_id from public.agent_unsettled u order by u.note_id limit 1000) u
), ready as materialized (
  select b.task_id, b.since from public.agent_blocked b where b.needs_left <= 0 or b.failed_need is not null order by b.task_id limit 1000
), idle as (
  select t.queue, t.task_id::text as task_id
    from noted n
   cross join lateral (select t.task_id, t.queue, t.status, t.created_at from public.agent_tasks t where t.task_id = n.task_id limit 1) t
   where t.status::text = 'blocked' and t.created_at::timestamptz < clock_timestamp() - interval '1 minute'
     and (select true from public.agent_blocked b where b.task_id = n.task_id) is null
  union all
  select t.queue, t.task_id::text
    from ready r
   cross join lateral (select t.task_id, t.queue, t.status, t.created_at from public.agent_tasks t where t.task_id = r.task_id limit 1) t
   where t.status::text = 'blocked' and r.since < clock_timestamp() - interval '1 minute'
     -- the last of its needs ended a while ago: of the first 100
     and coalesce((select max(o.completed_at::timestamptz)
                     from (select d.needs from public.agent_dependencies d where d.task_id = r.task_id limit 100) d
                     join public.agent_tasks o on o.task_id = d.needs), '-infinity') < clock_timestamp() - interval '1 minute'
), older as (
  select q.queue, min(w.worker_id) as worker_id, count(*)::int as workers
    from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state <> 'dead' and coalesce(w.schema, 0) < %(settling_schema)s::integer        -- as in turbo_older_queues
   group by q.queue
)
select 'idle' as what, i.queue, min(i.task_id) as task_id, count(*)::int as tasks, null::text as worker_id, 0 as workers
  from idle i
 group by i.queue
union all
select 'older', o.queue, b.task_id, b.tasks, o.worker_id, o.workers
  from older o
 cross join lateral (select min(f.task_id) as task_id, count(*)::int as tasks
                       from (select t.task_id::text as task_id from public.agent_tasks t
                              where t.status = 'blocked' and t.queue = o.queue limit 1000) f) b
 where b.tasks > 0
 order by 1, 2
 limit 100
