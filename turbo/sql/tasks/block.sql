-- Gives back claimed tasks that must not run yet: they have needs, and came past the triggers that would have made them wait
-- (tasks/more.sql, `untied`). A note tells the settler of each, which ties it to what it needs, or lets it go at once.
-- Called by the claim that took them, before they run. Fenced; the token is consumed, since no result will follow. A requested
-- status is applied instead.
with r as (
  update public.agent_tasks t
     set status = i.becomes::public.turbo_status,
         completed_at = case when i.becomes in ('completed', 'failed', 'cancelled') then clock_timestamp() end,
         run_after = case when i.becomes in ('pending', 'scheduled') then greatest(clock_timestamp(), t.run_after) else t.run_after end,
         assigned_worker_id = null, started_at = null, fencing_token = - t.fencing_token,
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
    from (select t.task_id, t.fencing_token,
                 case when t.cancel_requested_at is null then 'blocked'
                      else public.turbo_stopped_status(t.cancel_to::text, t.run_after::timestamptz) end as becomes
            from unnest(%(task_id)s::text[]::public.turbo_task_id[], %(token)s::bigint[]) as i(task_id, token)
            join public.agent_tasks t on t.task_id = i.task_id and t.fencing_token = i.token and t.status = 'running'
           order by t.task_id for update of t) i
   where t.task_id = i.task_id and t.fencing_token = i.fencing_token and t.status = 'running'
  returning t.task_id, t.status::text as status, i.fencing_token as token
), note as (
  insert into public.agent_unsettled (task_id) select r.task_id from r where r.status = 'blocked'
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select r.task_id, 'released', true, %(worker)s, 'running', r.status, r.token, '{"reason": "its needs were not looked at yet"}'
    from r
)
select r.task_id::text, r.token, r.status,
       case when current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5
            then pg_notify('turbo_ctl', 'settle') end
  from r
