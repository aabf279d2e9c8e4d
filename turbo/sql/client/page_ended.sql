-- A page of the list of tasks: those that have ended, the newest first, behind the one of `moment` and `task_id`. Uses the index on
-- completed_at from there on: its cost does not grow with the number of pages before. Those without a moment, which an older poller
-- ended, come last. The other parameters: as in client/tasks.sql.
select t.task_id::text as task_id, to_json(t.completed_at) #>> '{}' as moment, t.queue, null::int as priority
  from public.agent_tasks t
 where t.status in ('completed', 'failed', 'cancelled') and t.status::text = any (%(ended)s::text[])
   and (%(task_id)s::text is null and t.completed_at is not null
        or (t.completed_at, t.task_id) < (%(moment)s, %(task_id)s::text::public.turbo_task_id))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
 order by t.completed_at desc, t.task_id desc
 limit %(limit)s
