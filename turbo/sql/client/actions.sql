-- Client.trail: the audit trail of one task, in order. Uses the index on (task_id, executed_at).
-- Rows with equal times come in the order they were written: an adopted table's own key may be of any type.
select a.action_type, a.success, a.executed_at, a.execution_time_ms, a.actor, a.from_status, a.to_status, a.detail
  from public.agent_actions a
 where a.task_id = %(task_id)s
 order by a.executed_at, a.ctid
