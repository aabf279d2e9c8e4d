-- Gives tasks back without counting an attempt: a shutdown whose deadline passed, or a task claimed but not started (with a
-- delay before it may be claimed again). Called by the worker. Fenced; the token is consumed, since no result will follow.
-- A requested status is applied instead. needed: as in tasks/finish.sql; a task that is over keeps the name of this host, too.
-- prefer: the only host that may claim them then; null: no other than before.
with r as (
  update public.agent_tasks t
     set status = i.becomes::public.turbo_status,
         completed_at = case when i.becomes not in ('pending', 'scheduled') then clock_timestamp() end,
         -- a person who postponed the task set its time
         run_after = case when t.cancel_requested_at is null then clock_timestamp() + make_interval(secs => %(delay)s::float8)
                          else greatest(clock_timestamp(), t.run_after) end,
         assigned_worker_id = null, started_at = null, fencing_token = - t.fencing_token,
         agent_session_id = nullif(coalesce(i.session, t.agent_session_id), ''),  -- '': do not resume it
         prefer_host = case when i.becomes in ('pending', 'scheduled') then coalesce(%(prefer)s::text, t.prefer_host) else %(host)s end,
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from (select t.task_id, t.fencing_token, i.session,
                 case when t.cancel_requested_at is not null
                        then public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz)
                      when %(delay)s::float8 > 0 then 'scheduled'
                      else 'pending' end as becomes
            from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[], %(session)s::text[])
                 as i(task_id, token, session)
            join public.agent_tasks t on t.task_id = i.task_id and t.fencing_token = i.token and t.status = 'running'
           order by t.task_id for update of t) i
   where t.task_id = i.task_id and t.fencing_token = i.fencing_token and t.status = 'running'
  returning t.task_id, t.status::text as status, i.fencing_token as token, t.needed
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select r.task_id, 'released', true, %(worker)s, 'running', r.status, r.token,
         jsonb_build_object('reason', %(reason)s::text)
    from r
)
select r.task_id::text, r.token, r.status, r.needed and r.status in ('completed', 'failed', 'cancelled') as needed,
       public.turbo_tell_who_waits(r.task_id::text, r.status::text) as told
  from r
