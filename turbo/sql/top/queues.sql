-- Top: status/queues.sql at a bounded cost, because it runs every two seconds. Counts stop at `most` + 1. The oldest pending
-- task is the oldest of those that come first in their queue and priority. They are found by hopping along the claim
-- index: one probe per queue and priority, 300 at most. 1 M pending rows cost as much as 10,000 do.
-- Scheduled ones are counted up to `most` + 1 in all, and so are waiting and blocked ones.
-- At most `limit` rows, and one for all others, as in status/queues.sql.
with recursive hop as (
  (select 1 as n, t.queue, t.task_priority, t.run_after
     from public.agent_tasks t
    where t.status = 'pending'
    order by t.queue, t.task_priority desc nulls last, t.run_after
    limit 1)
  union all
  select h.n + 1, f.queue, f.task_priority, f.run_after
    from hop h
   cross join lateral (
     select c.* from (
       (select 1 as step, t.queue, t.task_priority, t.run_after from public.agent_tasks t
         where t.status = 'pending' and t.queue = h.queue and t.task_priority < h.task_priority
         order by t.queue, t.task_priority desc nulls last, t.run_after limit 1)
       union all
       (select 2, t.queue, t.task_priority, t.run_after from public.agent_tasks t
         where t.status = 'pending' and t.queue = h.queue and t.task_priority is null and h.task_priority is not null
         order by t.queue, t.task_priority desc nulls last, t.run_after limit 1)
       union all
       (select 3, t.queue, t.task_priority, t.run_after from public.agent_tasks t
         where t.status = 'pending' and t.queue > h.queue
         order by t.queue, t.task_priority desc nulls last, t.run_after limit 1)
     ) c order by c.step limit 1
   ) f
   where h.n < 300
), pending as (
  select o.queue, o.oldest,
         (select count(*) from (select from public.agent_tasks t
                                 where t.status = 'pending' and t.queue = o.queue limit %(most)s + 1) counted) as tasks
    from (select h.queue, min(h.run_after) as oldest from hop h group by h.queue) o
), scheduled as (
  select s.queue, count(*) as tasks
    from (select t.queue from public.agent_tasks t where t.status = 'scheduled' limit %(most)s + 1) s
   group by s.queue
), resting as (
  select a.queue, count(*) filter (where a.status = 'waiting') as waiting, count(*) filter (where a.status = 'blocked') as blocked,
         min(a.asked) as asked
    from (select t.queue, t.status, case when t.status = 'waiting' and t.question ->> 'kind' <> 'hold' then (t.question ->> 'asked_at')::timestamptz end as asked
            from public.agent_tasks t
           where t.status in ('waiting', 'blocked')
           limit %(most)s + 1) a
   group by a.queue
), running as (
  select t.queue, count(*) as tasks,
         count(*) filter (where t.cancel_requested_at < clock_timestamp() - interval '1 minute') as stuck
    from public.agent_tasks t
   where t.status = 'running'
   group by t.queue
), served as (
  select q.queue, count(*) as workers
    from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state in ('up', 'paused') and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
         and clock_timestamp() + make_interval(secs => w.lease_seconds)
   group by q.queue
), queues as (
  select n.queue, coalesce(d.tasks, 0)::int as pending, coalesce(l.tasks, 0)::int as scheduled,
         coalesce(r.tasks, 0)::int as running, coalesce(r.stuck, 0)::int as stuck,
         coalesce(a.waiting, 0)::int as waiting, coalesce(a.blocked, 0)::int as blocked,
         greatest(0, extract(epoch from clock_timestamp() - a.asked))::float8 as asked_seconds,
         case when d.oldest is not null then greatest(0, extract(epoch from clock_timestamp()) - extract(epoch from d.oldest))::float8 end as oldest_seconds,
         coalesce(s.workers, 0)::int as workers, coalesce(p.paused, false) as paused, p.reason as paused_reason,
         p.paused_by, (extract(epoch from clock_timestamp()) - extract(epoch from p.paused_at))::float8 as paused_seconds
    from (select queue from pending union select queue from scheduled union select queue from running
          union select queue from resting union select queue from served union select queue from public.agent_queues where paused) n
    left join pending d on d.queue = n.queue
    left join scheduled l on l.queue = n.queue
    left join running r on r.queue = n.queue
    left join resting a on a.queue = n.queue
    left join served s on s.queue = n.queue
    left join public.agent_queues p on p.queue = n.queue and p.paused
), ranked as (
  select q.*, row_number() over (order by q.workers > 0 or q.paused desc, q.stuck > 0 desc, q.running > 0 desc,
                                          q.pending + q.scheduled + q.waiting + q.blocked desc, q.queue) as place
    from queues q
)
select r.queue, r.pending, r.scheduled, r.running, r.stuck, r.oldest_seconds, r.workers, r.paused, r.paused_reason, r.paused_by,
       r.paused_seconds, 1 as queues, r.waiting, r.blocked, r.asked_seconds
  from ranked r
 where r.place <= %(limit)s
union all
select null, sum(r.pending)::bigint, sum(r.scheduled)::bigint, sum(r.running)::bigint, sum(r.stuck)::bigint, max(r.oldest_seconds),
       0, false, null, null, null, count(*)::int, sum(r.waiting)::bigint, sum(r.blocked)::bigint, max(r.asked_seconds)
  from ranked r
 where r.place > %(limit)s
having count(*) > 0
 order by 1 nulls last
