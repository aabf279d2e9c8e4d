-- How many tasks match, up to `most`: for the question before all of them are changed. Parameters: as in client/tasks.sql.
select count(*)::int as tasks
  from (select from public.agent_tasks t
         where t.status::text = any (%(statuses)s::text[])
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
         limit %(most)s) c
