-- Status and doctor: the schedules that need a person, at most `limit`, the worst first. error: why it does not fire, why its last task was
-- refused, or that it paused itself. late_seconds: how long its slot has waited for a worker, of those that wait for over a minute.
-- unserved: no live worker serves its queue. of_all: how many there are.
with served as materialized (
  select distinct q.queue
    from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
   where w.state in ('up', 'paused')
     and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
         and clock_timestamp() + make_interval(secs => w.lease_seconds)
), judged as (
  select s.name, s.enabled, coalesce(s.queue, 'default') as queue, s.error,
         case when s.enabled and (s.next_at is not null or s.error is null)
                   and coalesce(s.next_at, s.since) < clock_timestamp() - interval '1 minute'
              then extract(epoch from clock_timestamp() - coalesce(s.next_at, s.since))::float8 end as late_seconds,
         s.enabled and not exists (select from served v where v.queue = coalesce(s.queue, 'default')) as unserved
    from public.agent_schedules s
)
select j.name, j.enabled, j.queue, j.error, j.late_seconds, j.unserved, count(*) over ()::int as of_all
  from judged j
 where j.error is not null or j.late_seconds is not null or j.unserved
 order by j.error is null, j.late_seconds desc nulls last, j.name
 limit %(limit)s
