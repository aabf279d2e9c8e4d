-- Client.tasks: the newest tasks that match; a null parameter matches everything. Newest is by created_at, which has no
-- index: the table is read once and sorted up to the limit (figures for 1 M tasks: docs/cli.md). A task made tomorrow or later,
-- as by a clock that was ahead, comes last.
-- Every text is truncated: a row may hold a gigabyte of it.
-- since: became runnable, started or ended at or after this time. worker: part of the worker's id. text: part of the
-- description, the error or the question, ignoring case.
select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, t.task_priority, t.retry_count,
       t.max_retries, left(t.assigned_worker_id, 255) as assigned_worker_id, t.created_at, t.run_after, t.started_at,
       t.completed_at, left(t.failure_kind, 100) as failure_kind,
       left(t.task_description, 200) as task_description, t.cancel_requested_at,
       left(t.cancel_to, 100) as cancel_to, left(t.prefer_host, 255) as prefer_host,
       case when t.status = 'waiting' then left(t.question ->> 'text', 200) end as question,
       case when t.status = 'waiting' then (t.question ->> 'asked_at')::timestamptz end as asked_at, t.requires
  from public.agent_tasks t
 where (%(statuses)s::text[] is null or t.status::text = any (%(statuses)s::text[]))
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
   and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
   and (%(worker)s::text is null or position(%(worker)s::text in t.assigned_worker_id) > 0)
   and (%(failure_kind)s::text is null or t.failure_kind = %(failure_kind)s::text)
   and (%(since)s::timestamptz is null or greatest(t.run_after, t.started_at, t.completed_at) >= %(since)s::timestamptz)
   and (%(text)s::text is null
        or position(lower(%(text)s::text) in lower(t.task_description || coalesce(' ' || t.error_message, '') || coalesce(' ' || (t.question ->> 'text'), ''))) > 0)
 order by case when t.created_at < statement_timestamp() + interval '1 day' then t.created_at end desc nulls last, t.task_id
 limit %(limit)s
