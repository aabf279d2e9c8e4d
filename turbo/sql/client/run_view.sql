-- Client.run: where a task's latest run is, for `turbo logs`. By primary keys; polled once a second while a log is followed.
-- A line of progress counts only while its own claim is running. The token is positive while the run lasts.
select t.task_id::text as task_id, t.status::text as status, case when t.fencing_token is not null then abs(greatest(t.fencing_token, -9223372036854775807)) end as fencing_token,
       t.assigned_worker_id as worker_id, w.host, t.output_data ->> 'log' as log, t.error_message,
       p.text as line, coalesce(p.input_tokens, 0) as input_tokens, coalesce(p.output_tokens, 0) as output_tokens,
       case when t.status = 'waiting' then left(t.question ->> 'text', 200) end as question,
       case when t.status = 'waiting' then t.question ->> 'kind' end as kind,
       case when t.status = 'waiting' then (t.question ->> 'asked_at')::timestamptz end as asked_at
  from public.agent_tasks t
  left join public.agent_workers w on w.worker_id = t.assigned_worker_id
  left join public.agent_progress p on p.task_id = t.task_id and p.fencing_token = t.fencing_token and t.status = 'running'
 where t.task_id = %(task_id)s::text::public.turbo_task_id
