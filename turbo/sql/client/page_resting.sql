-- A page of the list of tasks: those that wait for a person, for other tasks, or for their time, behind the one of `queue_key`, `moment` and
-- `task_id`. Uses agent_tasks_at_rest from there on: its cost does not grow with the number of pages before. The other parameters: as
-- in client/tasks.sql.
select t.task_id::text as task_id, to_json(t.run_after) #>> '{}' as moment, t.queue, null::int as priority
  from public.agent_tasks t
 where t.status in ('scheduled', 'waiting', 'blocked') and t.status = %(status)s
   and (%(task_id)s::text is null
        or (t.queue, t.run_after, t.task_id) > (%(queue_key)s::text, %(moment)s::timestamptz, %(task_id)s::text::public.turbo_task_id))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
 order by t.queue, t.run_after, t.task_id
 limit %(limit)s
