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
select 'tasks', s.queue, t.status::text, count(*)::float8           -- by agent_tasks_at_rest
  from public.agent_tasks t left join served s on s.queue = t.queue
 where t.status in ('waiting', 'blocked') group by s.queue, t.status
union all
-- A hold is no question: somebody wants the task to wait.
select 'question', s.queue, null,
       greatest(0, extract(epoch from clock_timestamp() - min((t.question ->> 'asked_at')::timestamptz)))::float8
  from public.agent_tasks t left join served s on s.queue = t.queue
 where t.status = 'waiting' and t.question ->> 'kind' <> 'hold' group by s.queue
union all
-- Answered, and only one host may go on with it, where no live worker serves its queue: among the first 200 of each queue.
select 'stranded', n.queue, null, count(*)::float8
  from (select distinct s.queue from served s) n
 cross join lateral (select t.prefer_host, t.task_id, t.agent_session_id
                       from public.agent_tasks t
                      where t.status = 'pending' and t.queue = n.queue
                      order by t.task_priority desc nulls last, t.run_after
                      limit 200) p
 where p.prefer_host is not null
   and not public.turbo_is_portable(p.task_id::public.turbo_task_id, p.agent_session_id::text)
   and not exists (select from public.agent_workers w
                    where w.host = p.prefer_host and n.queue = any (w.queues) and w.state in ('up', 'paused')
                      and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
                          and clock_timestamp() + make_interval(secs => w.lease_seconds))
 group by n.queue
union all
-- They require labels that no live worker of their queue has: of the first 1,000 requirements, 1,000 tasks each.
select 'unplaceable', u.queue, null, sum(u.tasks)::float8 from public.turbo_unplaceable(1000::integer) u group by u.queue
union all
-- Blocked by nothing for over a minute, as in status/unsettled.sql: of the first 1,000 notes and the first 1,000 that are ready.
select 'unsettled', s.queue, null, count(*)::float8
  from (select t.queue
          from (select distinct u.task_id from (select u.task_id from public.agent_unsettled u order by u.note_id limit 1000) u) n
         cross join lateral (select t.task_id, t.queue, t.status, t.created_at from public.agent_tasks t where t.task_id = n.task_id limit 1) t
         where t.status::text = 'blocked' and t.created_at::timestamptz < clock_timestamp() - interval '1 minute'
           and (select true from public.agent_blocked b where b.task_id = n.task_id) is null
        union all
        select t.queue
          from (select b.task_id, b.since from public.agent_blocked b
                 where b.needs_left <= 0 or b.failed_need is not null order by b.task_id limit 1000) r
         cross join lateral (select t.task_id, t.queue, t.status, t.created_at from public.agent_tasks t where t.task_id = r.task_id limit 1) t
         where t.status::text = 'blocked' and r.since < clock_timestamp() - interval '1 minute'
           and coalesce((select max(o.completed_at::timestamptz)
                           from (select d.needs from public.agent_dependencies d where d.task_id = r.task_id limit 100) d
                           join public.agent_tasks o on o.task_id = d.needs), '-infinity') < clock_timestamp() - interval '1 minute') t
  left join served s on s.queue = t.queue
 group by s.queue
union all
select 'oldest', s.queue, null, greatest(0, extract(epoch from clock_timestamp() - min(t.run_after) filter (where isfinite(t.run_after))))::float8
  from public.agent_tasks t left join served s on s.queue = t.queue
 where t.status = 'pending' group by s.queue
union all
-- on, paused by a person, or in need of one: it does not fire, its last task was refused, or it paused itself.
select 'schedules', null, s.state, count(*)::float8
  from (select case when s.error is not null then 'error' when s.enabled then 'on' else 'paused' end as state
          from public.agent_schedules s) s group by s.state
union all
select 'schedule_late', null, null, greatest(0, extract(epoch from clock_timestamp() - coalesce(s.next_at, s.since)))::float8
  from (select s.next_at, s.since from public.agent_schedules s
         where s.enabled and (s.next_at is not null or s.error is null) order by s.next_at nulls first limit 1) s
union all
-- The share that is used of the first hundred budgets, and whether they are spent. A budget of nothing is used up.
select g.what, b.name, null, case g.what when 'budget_spent' then (b.paused_until > clock_timestamp())::int::float8 else b.used end
  from (select left(b.name, 200) as name, coalesce(b.paused_until, '-infinity') as paused_until,
               case when b.period = 'total' or b.since >= date_trunc(b.period, clock_timestamp(), b.timezone)
                    then least(greatest(case when b.usd > 0 then b.spent_usd / b.usd when b.usd = 0 then 1 end,
                                        case when b.tokens > 0 then b.spent_tokens::numeric / b.tokens when b.tokens = 0 then 1 end,
                                        case when b.runs > 0 then b.spent_runs::numeric / b.runs when b.runs = 0 then 1 end), 1e9)::float8
                    else 0 end as used
          from public.agent_budgets b order by b.name limit 100) b
 cross join (values ('budget_used'), ('budget_spent')) g(what)
union all
-- Of the first hundred subscriptions that are on: failures in a row; how long the oldest event has waited, or that nobody has looked.
select g.what, s.name, null, case g.what when 'event_failures' then s.failures else s.age end
  from (select left(s.name, 200) as name, s.failures::float8 as failures,
               case when s.waiting_since is not null then extract(epoch from clock_timestamp() - s.waiting_since)
                    when s.looked_at < clock_timestamp() - interval '2 minutes' then extract(epoch from clock_timestamp() - s.looked_at)
                    else 0 end::float8 as age
          from public.agent_subscriptions s where s.enabled order by s.name limit 100) s
 cross join (values ('event_failures'), ('event_age')) g(what)
union all
-- Of the first 1,000 limits: whether their keys are full, and how many of their places are taken.
select g.what, null, case g.what when 'key_limits' then case when l.runs < l.running then 'free' else 'full' end else g.state end,
       sum(case when g.what = 'key_limits' then 1 when g.state = 'taken' then l.runs else greatest(0, l.running - l.runs) end)::float8
  from (select l.running, (select count(*) from public.agent_tasks r where r.status = 'running' and r.concurrency_key = l.concurrency_key) as runs
          from public.agent_limits l order by l.concurrency_key limit 1000) l
 cross join (values ('key_limits', null), ('key_places', 'taken'), ('key_places', 'free')) g(what, state)
 group by 1, 3
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
