-- A page of the list of tasks: those that run, longest first, behind the one of `moment` and `task_id`. All of them are read: as many as
-- the fleet has slots. The other parameters: as in client/tasks.sql.
select t.task_id::text as task_id, to_json(t.started_at) #>> '{}' as moment, t.queue, null::int as priority
  from public.agent_tasks t
 where t.status = 'running'
   and (%(task_id)s::text is null
        or (coalesce(t.started_at, '-infinity'), t.task_id) > (coalesce(%(moment)s::timestamptz, '-infinity'), %(task_id)s::text::public.turbo_task_id))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
 order by coalesce(t.started_at, '-infinity'), t.task_id
 limit %(limit)s
