-- Client.follow: the status of these tasks, by primary key, the last line of those that run, and what those ask that wait for a
-- person.
select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.assigned_worker_id, 255) as assigned_worker_id,
       left(t.failure_kind, 100) as failure_kind,
       t.retry_count, t.cancel_requested_at is not null as stopping, p.text as last_line,
       (extract(epoch from clock_timestamp())
         - extract(epoch from case t.status when 'running' then t.started_at::timestamptz
                                            when 'waiting' then coalesce((t.question ->> 'asked_at')::timestamptz, t.run_after)
                                            when 'blocked' then t.created_at::timestamptz
                                            else t.run_after end))::float8 as seconds,
       case when t.status = 'waiting' then left(t.question ->> 'text', 200) end as question,
       case when t.status = 'waiting' then t.question ->> 'kind' end as kind,
       case when t.status = 'waiting' then (t.question ->> 'asked_at')::timestamptz end as asked_at, left(t.prefer_host, 255) as prefer_host,
       left(t.continues, 2048) as continues
  from public.agent_tasks t
  left join public.agent_progress p on p.task_id = t.task_id and p.fencing_token = t.fencing_token
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
