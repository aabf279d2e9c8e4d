-- The leader's gauges, one cheap query: live states only (1 M finished rows counted would cost 150 ms).
select 'tasks' as what, t.queue as label, t.status::text as state, count(*)::float8 as value
  from public.agent_tasks t where t.status in ('pending', 'scheduled', 'running') group by t.queue, t.status
union all
select 'oldest', t.queue, null, greatest(0, extract(epoch from clock_timestamp() - min(t.run_after)))::float8
  from public.agent_tasks t where t.status = 'pending' group by t.queue
union all
select 'workers', null, w.state, count(*)::float8 from public.agent_workers w group by w.state
union all
select 'served', q.queue, null, 1 from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
 where w.state in ('up', 'paused') group by q.queue
union all
select 'notify', null, null, pg_notification_queue_usage()
