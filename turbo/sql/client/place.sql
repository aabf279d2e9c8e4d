-- Client.place: where a task may run. workers: the live ones of its queue; able: those of them that have the labels it requires; nearest:
-- of those that have not, the one that lacks the fewest, and what it has in place of each. portable: its conversation can be had anywhere.
-- host_live: whether a live worker of prefer_host serves the queue.
with task as materialized (
  select t.queue::text as queue, t.requires, left(t.prefer_host, 255) as prefer_host,
         public.turbo_is_portable(t.task_id::public.turbo_task_id, t.agent_session_id::text) as portable
    from public.agent_tasks t
   where t.task_id = %(task_id)s::text::public.turbo_task_id
), live as materialized (
  select w.worker_id, w.host, w.labels @> coalesce(t.requires, '{}') as able, l.lacks, l.many
    from task t
    join public.agent_workers w on t.queue = any (w.queues)
   cross join lateral (select count(*) as many, jsonb_object_agg(k.key, w.labels -> k.key) as lacks
                         from jsonb_each(coalesce(t.requires, '{}')) k where w.labels -> k.key is distinct from k.value) l
   where w.state in ('up', 'paused')
     and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
         and clock_timestamp() + make_interval(secs => w.lease_seconds)
)
select t.*, (select count(*) from live)::int as workers, (select count(*) from live l where l.able)::int as able,
       n.worker_id as nearest, n.lacks,
       exists (select from live l where l.host = t.prefer_host) as host_live
  from task t
  left join lateral (select l.worker_id, l.lacks from live l where not l.able order by l.many, l.worker_id limit 1) n on true
