-- Writes the checks of results into the audit trail: one row a check. Sent by the completer before tasks/finish.sql or
-- tasks/ask.sql, in the same transaction, and only for results with checks: the others do not pay for it.
-- Idempotent: a check is known by its task, the token of the claim that made it, and its number. A replay adds nothing, and neither
-- does a run that goes on after an interruption, and sends the checks before that, too. It locks nothing.
with input as (
  select i.task_id::public.turbo_task_id as task_id, i.token, coalesce(i.worker, %(worker)s) as worker, i.detail
    from json_to_recordset(%(checks)s::json) as i(task_id text, token bigint, worker text, detail json)
)
insert into public.agent_actions (task_id, action_type, success, actor, fencing_token, execution_time_ms, detail)
select i.task_id, 'checked', coalesce((i.detail ->> 'passed')::bool, false), i.worker, i.token,
       least((i.detail ->> 'seconds')::float8 * 1000, 2147483647)::bigint, i.detail::jsonb
  from input i
 where not coalesce((select true from public.agent_actions a
                      where a.task_id = i.task_id and a.fencing_token = i.token and a.action_type = 'checked'
                        and a.detail ->> 'number' = i.detail ->> 'number' limit 1), false)
