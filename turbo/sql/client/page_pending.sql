-- A page of the list of tasks: those that are pending, in the order in which they are claimed, behind the one of `queue_key`, `priority`,
-- `moment` and `task_id`. Each step uses the claim index from there on: the same queue and priority, lower priorities, none, later queues.
-- So its cost does not grow with the number of pages before. The other parameters: as in client/tasks.sql.
select c.task_id, c.moment, c.queue, c.priority from (
(select 1 as step, t.task_id::text as task_id, to_json(t.run_after) #>> '{}' as moment, t.queue, t.task_priority as priority
   from public.agent_tasks t
  where t.status = 'pending'
    and t.queue = %(queue_key)s::text and t.task_priority = %(priority)s::int
    and (t.run_after, t.task_id) > (%(moment)s::timestamptz, %(task_id)s::text::public.turbo_task_id)
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
  order by t.queue, t.task_priority desc nulls last, t.run_after, t.task_id
  limit %(limit)s)
union all
(select 2 as step, t.task_id::text as task_id, to_json(t.run_after) #>> '{}' as moment, t.queue, t.task_priority as priority
   from public.agent_tasks t
  where t.status = 'pending'
    and t.queue = %(queue_key)s::text and t.task_priority < %(priority)s::int
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
  order by t.queue, t.task_priority desc nulls last, t.run_after, t.task_id
  limit %(limit)s)
union all
(select 3 as step, t.task_id::text as task_id, to_json(t.run_after) #>> '{}' as moment, t.queue, t.task_priority as priority
   from public.agent_tasks t
  where t.status = 'pending'
    and t.queue = %(queue_key)s::text and t.task_priority is null
    and (%(priority)s::int is not null or (t.run_after, t.task_id) > (%(moment)s::timestamptz, %(task_id)s::text::public.turbo_task_id))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
  order by t.queue, t.task_priority desc nulls last, t.run_after, t.task_id
  limit %(limit)s)
union all
(select 4 as step, t.task_id::text as task_id, to_json(t.run_after) #>> '{}' as moment, t.queue, t.task_priority as priority
   from public.agent_tasks t
  where t.status = 'pending'
    and t.queue > coalesce(%(queue_key)s::text, '')
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
  order by t.queue, t.task_priority desc nulls last, t.run_after, t.task_id
  limit %(limit)s)
) c
 order by c.step, c.queue, c.priority desc nulls last, c.moment, c.task_id
 limit %(limit)s
