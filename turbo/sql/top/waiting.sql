-- Top, while its view of waiting tasks is open: who waits for a person, and what it asks; the first tasks of each queue in claim order;
-- the next due ones of the queues `later`; and those that wait for other tasks. Uses the claim index and agent_tasks_at_rest, no
-- further than the limits; but what waits for a person is read whole, for the longest.
(select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, left(t.assigned_worker_id, 255) as worker_id,
        greatest(0, extract(epoch from clock_timestamp() - (t.question ->> 'asked_at')::timestamptz))::float8 as seconds,
        coalesce(left(t.question ->> 'text', 200), '') as line, left(t.task_description, 200) as description,
        0 as input_tokens, 0 as output_tokens, t.retry_count, t.max_retries, false as stopping
   from public.agent_tasks t
  where t.status = 'waiting'
  order by (t.question ->> 'asked_at')::timestamptz, t.task_id
  limit %(limit)s)
union all
(select t.task_id::text as task_id, t.status::text as status, t.queue, left(t.task_type, 1000) as task_type, left(t.assigned_worker_id, 255) as worker_id,
        (extract(epoch from clock_timestamp()) - extract(epoch from t.run_after))::float8 as seconds,
        '' as line, left(t.task_description, 200) as description, 0 as input_tokens, 0 as output_tokens,
        t.retry_count, t.max_retries, false as stopping
   from unnest(%(queues)s::text[]) with ordinality q(queue, n)
  cross join lateral (select * from public.agent_tasks w
                       where w.status = 'pending' and w.queue = q.queue
                       order by w.task_priority desc nulls last, w.run_after
                       limit %(each)s) t
  order by q.n, t.task_priority desc nulls last, t.run_after)
union all
(select t.task_id::text, t.status::text, t.queue, left(t.task_type, 1000), left(t.assigned_worker_id, 255),
        (extract(epoch from clock_timestamp()) - extract(epoch from t.run_after))::float8, '', left(t.task_description, 200), 0, 0,
        t.retry_count, t.max_retries, false
   from unnest(%(later)s::text[]) q(queue)
  cross join lateral (select * from public.agent_tasks w
                       where w.status = 'scheduled' and w.queue = q.queue
                       order by w.run_after
                       limit %(limit)s) t
  order by t.run_after
  limit %(limit)s)
union all
(select t.task_id::text, t.status::text, t.queue, left(t.task_type, 1000), left(t.assigned_worker_id, 255),
        greatest(0, extract(epoch from clock_timestamp() - t.created_at::timestamptz))::float8,
        left(concat_ws(', ', 'continues ' || t.continues,
                       'needs ' || array_to_string(t.needs[1:3], ', ')
                                || case when cardinality(t.needs) > 3 then ' and ' || cardinality(t.needs) - 3 || ' more' else '' end), 200),
        left(t.task_description, 200), 0, 0,
        t.retry_count, t.max_retries, false
   from public.agent_tasks t
  where t.status = 'blocked'
  limit %(limit)s)
