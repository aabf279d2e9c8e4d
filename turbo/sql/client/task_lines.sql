-- A page of the list of tasks: these tasks, as client/tasks.sql shows them. By primary key.
select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, t.task_priority, t.retry_count,
       t.max_retries, left(t.assigned_worker_id, 255) as assigned_worker_id, t.created_at, t.run_after, t.started_at,
       t.completed_at, left(t.failure_kind, 100) as failure_kind,
       left(t.task_description, 200) as task_description, t.cancel_requested_at,
       left(t.cancel_to, 100) as cancel_to, left(t.prefer_host, 255) as prefer_host,
       case when t.status = 'waiting' then left(t.question ->> 'text', 200) end as question,
       case when t.status = 'waiting' then (t.question ->> 'asked_at')::timestamptz end as asked_at, t.requires
  from public.agent_tasks t
 where t.task_id = any (%(task_ids)s::text[]::public.turbo_task_id[])
