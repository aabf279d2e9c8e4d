-- What the spans of a task begin with, for a worker that is configured to trace: sent before each run, and after its result. Another text
-- than the W3C form is no traceparent, and is not read: it may have any size. created, completed: seconds since 1970.
select case when octet_length(t.traceparent) = 55 and t.traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'
            then t.traceparent end as traceparent,
       extract(epoch from t.created_at)::float8 as created, extract(epoch from t.completed_at)::float8 as completed,
       left(t.task_type, 200) as task_type, left(t.queue, 200) as queue, t.retry_count
  from public.agent_tasks t
 where t.task_id = %(task_id)s::text::public.turbo_task_id
