-- Top, once a second: the running tasks, longest first, each with its last line of progress. Uses the index on running
-- tasks: costs as much as the fleet has slots, whatever waits and whatever history holds.
select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, left(t.assigned_worker_id, 255) as worker_id,
       (extract(epoch from clock_timestamp()) - extract(epoch from t.started_at::timestamptz))::float8 as seconds,
       coalesce(p.text, '') as line, left(t.task_description, 200) as description,
       coalesce(p.input_tokens, 0) as input_tokens, coalesce(p.output_tokens, 0) as output_tokens,
       t.retry_count, t.max_retries, t.cancel_requested_at is not null as stopping
  from public.agent_tasks t
  left join public.agent_progress p on p.task_id = t.task_id and p.fencing_token = t.fencing_token
 where t.status = 'running'
 order by t.started_at, t.task_id
 limit %(limit)s
