-- Status: unfinished tasks by queue, from the partial indexes alone (finished tasks are in none of them), with pauses and
-- live workers. At most `limit` rows: served and paused queues first, then those with the most tasks; the others are one row more,
-- without a name: whoever inserts may invent queues. oldest_seconds: since the oldest pending task became runnable. stuck: stops
-- requested over a minute ago. asked_seconds: since the oldest open question; not of holds.
with live as (
  select t.queue, count(*) filter (where t.status = 'pending') as pending,
         count(*) filter (where t.status = 'scheduled') as scheduled,
         count(*) filter (where t.status = 'running') as running,
         min(t.run_after) filter (where t.status = 'pending') as oldest,
         count(*) filter (where t.status = 'running'
                            and t.cancel_requested_at < clock_timestamp() - interval '1 minute') as stuck
    from public.agent_tasks t
   where t.status in ('pending', 'scheduled', 'running')
   group by t.queue
), resting as (        -- for other tasks, or for a person: by agent_tasks_at_rest
  select t.queue, count(*) filter (where t.status = 'waiting') as waiting,
         count(*) filter (where t.status = 'blocked') as blocked,
         min((t.question ->> 'asked_at')::timestamptz) filter (where t.status = 'waiting' and t.question ->> 'kind' <> 'hold') as asked
    from public.agent_tasks t
   where t.status in ('waiting', 'blocked')
   group by t.queue
), served as (
  select q.queue, count(*) as workers
    from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state in ('up', 'paused') and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
         and clock_timestamp() + make_interval(secs => w.lease_seconds)
   group by q.queue
), queues as (
  select n.queue, coalesce(l.pending, 0)::int as pending, coalesce(l.scheduled, 0)::int as scheduled,
         coalesce(l.running, 0)::int as running, coalesce(l.stuck, 0)::int as stuck,
         coalesce(a.waiting, 0)::int as waiting, coalesce(a.blocked, 0)::int as blocked,
         greatest(0, extract(epoch from clock_timestamp() - a.asked))::float8 as asked_seconds,
         case when l.oldest is not null then greatest(0, extract(epoch from clock_timestamp()) - extract(epoch from l.oldest))::float8 end as oldest_seconds,
         coalesce(s.workers, 0)::int as workers, coalesce(p.paused, false) as paused, p.reason as paused_reason,
         p.paused_by, (extract(epoch from clock_timestamp()) - extract(epoch from p.paused_at))::float8 as paused_seconds
    from (select queue from live union select queue from resting union select queue from served
          union select queue from public.agent_queues where paused) n
    left join live l on l.queue = n.queue
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
