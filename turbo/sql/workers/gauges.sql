-- The leader's gauges in one cheap query: unfinished states only (counting 1 M finished rows would cost 150 ms).
-- Queues that no live worker serves are counted together, with a label of null: whoever inserts may invent names. So are served
-- ones beyond the first 500, those of the most workers first: a worker may serve a queue of any name.
with served as (
  select q.queue from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state in ('up', 'paused') and octet_length(q.queue) <= 255
   group by q.queue order by count(*) desc, q.queue limit 500
)
select 'tasks' as what, s.queue as label, t.status::text as state, count(*)::float8 as value
  from public.agent_tasks t left join served s on s.queue = t.queue
 where t.status in ('pending', 'scheduled', 'running') group by s.queue, t.status
union all
select 'oldest', s.queue, null, greatest(0, extract(epoch from clock_timestamp() - min(t.run_after) filter (where isfinite(t.run_after))))::float8
  from public.agent_tasks t left join served s on s.queue = t.queue
 where t.status = 'pending' group by s.queue
union all
select 'workers', null, w.state, count(*)::float8 from public.agent_workers w group by w.state
union all
select 'served', s.queue, null, 1 from served s
union all
select 'notify', null, null, pg_notification_queue_usage()
union all
-- What holds back the xmin horizon: sessions with a snapshot or a transaction id, and prepared transactions. Other roles'
-- sessions are visible only to members of pg_read_all_stats.
select 'transaction', null, null, coalesce(extract(epoch from clock_timestamp() - min(x.since)), 0)::float8
  from (select a.xact_start as since from pg_stat_activity a
         where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid()
        union all
        select p.prepared from pg_prepared_xacts p) x
