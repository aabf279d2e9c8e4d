-- Takes back the tasks of dead workers, 500 per pass. Run by any worker whose beat returns to_rescue; safe with two at once.
-- The token stays: a late success is accepted until the task is claimed again. A rescued task waits a short backoff, so
-- that it does not fail the same way at once; at the cap it is failed as poison.
-- A worker that lies may have written any count: the bounds keep every sum, also in the search for a refused row.
-- Rows that turbo never claimed (an old poller's) stay as they are.
with lost as materialized (
  select t.task_id, t.assigned_worker_id as was_on, t.fencing_token, least(greatest(t.infra_count, 0), 1000000) + 1 as count,
         t.cancel_requested_at is not null as stopping, coalesce(t.cancel_to, 'cancelled') as requested
    from public.agent_tasks t
   where t.status = 'running' and t.fencing_token > 0
     and t.assigned_worker_id in (select w.worker_id from public.agent_workers w where w.state = 'dead')
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
   order by t.task_id
   limit 500
     for update of t skip locked
--end which: ) select l.task_id::text, l.fencing_token from lost l
), decided as materialized (
  select l.*, case when l.stopping      -- it waits its backoff
                        then public.turbo_stopped_status(l.requested::text, 'infinity'::timestamptz)
                   when l.count >= %(infra_cap)s then 'failed'
                   else 'scheduled' end as becomes
    from lost l
), r as (
  update public.agent_tasks t
     set status        = d.becomes::public.turbo_status,
         failure_kind  = case when d.becomes = 'failed' and not d.stopping then 'poison' else t.failure_kind end,
         error_message = case when d.becomes = 'failed' and not d.stopping
                              then format('stopped after %%s runs that ended with their worker or its machine; see the audit trail', d.count)
                              else t.error_message end,
         completed_at  = case when d.becomes = 'scheduled' then null else clock_timestamp() end,
         run_after     = case when d.becomes = 'scheduled'
                              -- a person who postponed the task set its time
                              then greatest(case when d.stopping then t.run_after end,
                                            clock_timestamp() + least(interval '1 minute', interval '1 second' * power(2, least(d.count, 10))) * (0.5 + random() / 2))
                              else t.run_after end,
         infra_count = d.count, assigned_worker_id = case when d.becomes = 'scheduled' then null else t.assigned_worker_id end,
         started_at = case when d.becomes = 'scheduled' then null else t.started_at end,
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from decided d
   where t.task_id = d.task_id
  returning t.task_id, t.queue, t.status::text as status, t.fencing_token, d.was_on, d.count,
            public.turbo_tell_who_waits(t.task_id::text, t.status::text) as told
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select r.task_id, 'rescued', r.status <> 'failed', %(worker)s, 'running', r.status, r.fencing_token,
         jsonb_build_object('reason', %(reason)s::text, 'dead_worker', r.was_on, 'infra_count', r.count)
    from r
)
select r.task_id::text, r.queue, r.status, r.was_on from r
