-- The heartbeat, every heartbeat_seconds, on its own thread and connection: one update of the worker's own row.
-- It also counts silent workers: +1 for each one that missed its own interval, at most once per interval whichever worker
-- counts. A worker is dead when its counted beats fill its own lease. Only a beat that the database accepted counts, so an
-- outage of the database kills no worker. It takes no leader, and no host's clock decides.
-- A beat in the future is none: the database's clock was set back, or a failover went to a server whose clock is behind. A live
-- worker beats again before it is counted often enough. The same holds for counted_at, and for the lease of a dead leader.
-- The beat also renews the leader's lease, or takes a free one. The lease is a row on the database's clock: it survives
-- poolers, people can see it, and it expires soon after its holder falls silent, even if a dead TCP session lingers. The
-- leader only does gauges and pruning.
-- alive: false if the row is gone, marked dead, or created by workers/prune.sql (pid 0); then register again and reconcile.
-- queue_usage: how full the server's notification queue is, from 0 to 1.
-- older: of the queues whose tasks may ask a person, those that a live worker serves which does not know tasks that wait, with
-- one such worker each. Not looked for without such queues.
-- died: workers that this beat marked dead. to_rescue: some dead worker still holds tasks, so run tasks/rescue.sql.
with own as (
  update public.agent_workers
     set heartbeat_at = clock_timestamp(), silent_beats = 0, counted_at = null, busy = %(busy)s, problems = %(problems)s::jsonb
   where worker_id = %(worker)s and state <> 'dead' and pid <> 0
  returning worker_id
), silent as (
  select w.worker_id
    from public.agent_workers w
   where w.state <> 'dead' and w.worker_id <> %(worker)s
     and w.heartbeat_at not between clock_timestamp() - make_interval(secs => w.heartbeat_seconds * 1.5)
                                and clock_timestamp() + make_interval(secs => w.heartbeat_seconds * 1.5)
     and (w.counted_at is null
          or w.counted_at not between clock_timestamp() - make_interval(secs => w.heartbeat_seconds * 0.9) and clock_timestamp())
   order by w.worker_id
     for update skip locked
), counted as (
  update public.agent_workers w
     set silent_beats = w.silent_beats + 1, counted_at = clock_timestamp(),
         idle  = false,                          -- a silent worker must not hold the notify gate open
         state = case when (w.silent_beats + 1) * w.heartbeat_seconds >= w.lease_seconds then 'dead' else w.state end
    from silent s
   where w.worker_id = s.worker_id
     and w.heartbeat_at not between clock_timestamp() - make_interval(secs => w.heartbeat_seconds * 1.5)
                                and clock_timestamp() + make_interval(secs => w.heartbeat_seconds * 1.5)
  returning w.worker_id, w.state
), leader as (
  insert into public.agent_leader as l (holder, since, expires_at)
  select %(worker)s, clock_timestamp(), clock_timestamp() + make_interval(secs => %(leader_lease)s)
   where %(may_lead)s
     and not exists (select from public.agent_leader o
                      where o.holder <> %(worker)s and o.expires_at > clock_timestamp()
                        and exists (select from public.agent_workers h where h.worker_id = o.holder and h.state <> 'dead'))
  on conflict (one) do update
     set holder = excluded.holder, expires_at = excluded.expires_at,
         since = case when l.holder = excluded.holder then l.since else excluded.since end
   where l.holder = excluded.holder or l.expires_at < clock_timestamp()
      or not exists (select from public.agent_workers h where h.worker_id = l.holder and h.state <> 'dead')
  returning l.holder
)
select exists (select from own) as alive,
       exists (select from leader) as leads,
       coalesce((select array_agg(c.worker_id) from counted c where c.state = 'dead'), '{}') as died,
       exists (select from counted c where c.state = 'dead')
         or exists (select from public.agent_workers d
                     where d.state = 'dead'
                       and exists (select from public.agent_tasks t
                                    where t.status = 'running' and t.assigned_worker_id = d.worker_id
                                      and t.fencing_token > 0)) as to_rescue,
       pg_notification_queue_usage() as queue_usage,
       case when %(asking)s::text[] is not null
            then (select json_object_agg(q.queue, o.worker_id)
                    from unnest(%(asking)s::text[]) q(queue)
                    join lateral (select w.worker_id from public.agent_workers w
                                   where w.state <> 'dead' and coalesce(w.schema, 0) < %(asking_schema)s
                                     and w.queues && array[q.queue]
                                   order by w.worker_id limit 1) o on true) end as older,
       set_config('synchronous_commit', 'off', true) as fast
