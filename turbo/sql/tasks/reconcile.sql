-- Compares the tasks that this worker runs with those that the database assigns to it. Runs only while tasks are in flight
-- or after a connection error, never during a claim (its rows would look like orphans), and after the spool was replayed.
-- orphan: in the database only. The claim's answer was lost on the wire, or a failover lost a result that had left the
--         spool. Given back here; the token stays, as in every rescue, so that such a result is accepted when sent again.
-- left:   an orphan that was not given back: its row is locked, or refused and set aside.
-- lost:   in the worker only. The worker takes the task back (tasks/reassert.sql), or ends the agent.
-- stop:   in both, but the task should end: the polled fallback of turbo_ctl.
with mine as materialized (
  select t.task_id, t.fencing_token, t.cancel_requested_at
    from public.agent_tasks t
   where t.assigned_worker_id = %(worker)s and t.status = 'running' and t.fencing_token > 0
), known as (
  select * from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[]) k(task_id, token)
), forgotten as materialized (
  select t.task_id, t.fencing_token
    from public.agent_tasks t
   where t.assigned_worker_id = %(worker)s and t.status = 'running' and t.fencing_token > 0
     and not exists (select from known k where k.task_id = t.task_id and k.token = t.fencing_token)
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
   order by t.task_id
     -- a row that a person is editing is left for the next comparison: no claim may wait for it
     for update skip locked
--end which: ) select f.task_id::text, f.fencing_token from forgotten f
), orphan as (
  update public.agent_tasks t
     set status = (case when t.cancel_requested_at is null then 'pending'
                        else public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz) end)::public.turbo_status,
         completed_at = case when t.cancel_requested_at is not null
                              and public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz)
                                  not in ('pending', 'scheduled')
                             then clock_timestamp() end,
         -- a person who postponed the task set its time
         run_after = case when t.cancel_requested_at is null then clock_timestamp()
                          else greatest(clock_timestamp(), t.run_after) end, assigned_worker_id = null, started_at = null,
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from forgotten f
   where t.task_id = f.task_id and t.fencing_token = f.fencing_token and t.status = 'running'
  returning t.task_id, t.fencing_token as token, t.status::text as status,
            public.turbo_tell_who_waits(t.task_id::text, t.status::text) as told
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select o.task_id, 'rescued', true, %(worker)s, 'running', o.status, o.token, '{"reason": "orphan"}' from orphan o
)
select 'orphan' as what, o.task_id::text as task_id, o.token from orphan o
union all
select 'left', m.task_id::text, m.fencing_token from mine m
 where not exists (select from known k where k.task_id = m.task_id and k.token = m.fencing_token)
   and not exists (select from orphan o where o.task_id = m.task_id)
union all
select 'stop', m.task_id::text, m.fencing_token from mine m where m.cancel_requested_at is not null
union all
select 'lost', k.task_id::text, k.token from known k
 where not exists (select from mine m where m.task_id = k.task_id and m.fencing_token = k.token)
