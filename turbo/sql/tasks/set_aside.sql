-- Fails a task as poison, because the database refuses what turbo would write into its row, again and again, while it takes
-- other rows. Called by turbo.db.row_by_row, for a row that is waiting, or running without a worker that knows it.
-- Fenced by status and token: a task that was claimed, edited or rescued meanwhile stays as it is. The token of a running
-- task stays, so a late success is accepted.
-- The audit trail may be what refuses the row: without `audit` the task fails, and the trail does not show it.
with refused as materialized (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = %(task_id)s::text::public.turbo_task_id and t.status::text = %(status)s::text
     and t.fencing_token is not distinct from %(token)s::bigint
     and (t.status <> 'running' or t.assigned_worker_id = %(worker)s
          or exists (select from public.agent_workers w where w.worker_id = t.assigned_worker_id and w.state = 'dead'))
     for update of t skip locked
), failed as (
  update public.agent_tasks t
     set status = 'failed', failure_kind = 'poison', error_message = %(error)s, completed_at = clock_timestamp(),
         cancel_requested_at = null, cancel_to = null, turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(select r.task_id from refused r))
  returning t.task_id, t.fencing_token, public.turbo_tell_who_waits(t.task_id::text, 'failed'::text) as told
), audit as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, fencing_token, detail)
  select f.task_id, 'refused', false, %(worker)s, %(status)s::text, 'failed', f.fencing_token,
         jsonb_build_object('statement', %(statement)s::text, 'error', %(error)s::text)
    from failed f
   where %(audit)s
)
select f.task_id::text from failed f
