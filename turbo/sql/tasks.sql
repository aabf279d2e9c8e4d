-- Client.tasks: the newest tasks, by status and queue.
select t.task_id::text as task_id, t.status::text as status, t.queue, t.task_type, t.task_priority, t.retry_count,
       t.max_retries, t.assigned_worker_id, t.created_at, t.run_after, t.started_at, t.completed_at, t.failure_kind,
       left(t.task_description, 200) as task_description
  from public.agent_tasks t
 where (%(status)s::text is null or t.status = %(status)s::text::public.turbo_status)
   and (%(queue)s::text is null or t.queue = %(queue)s::text)
 order by t.created_at desc
 limit %(limit)s
