-- Top, while its view of ended tasks is open: the newest first. Uses the index on completed_at, no further than the limit.
select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, left(t.assigned_worker_id, 255) as worker_id,
       (extract(epoch from clock_timestamp()) - extract(epoch from t.completed_at::timestamptz))::float8 as seconds,
       coalesce(left(t.error_message, 500), '') as line, left(t.task_description, 200) as description,
       0 as input_tokens, 0 as output_tokens, t.retry_count, t.max_retries, false as stopping
  from public.agent_tasks t
 where t.status in ('completed', 'failed', 'cancelled')
   and t.completed_at < statement_timestamp() + interval '1 day'      -- a person may have written any moment
 order by t.completed_at desc
 limit %(limit)s
