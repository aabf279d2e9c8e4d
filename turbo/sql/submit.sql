-- Client.submit: insert one task, its id by the column's own default (text, uuid or a sequence, as the table has it).
-- With an idempotency key that is taken: the task that has it; created says which. No row at all: the other one
-- committed after this snapshot; ask once more.
with new as (
  insert into public.agent_tasks (task_type, task_description, task_priority, input_data, queue, run_after,
                                  timeout_seconds, max_retries, idempotency_key, concurrency_key)
  values (coalesce(%(task_type)s, 'default'), %(text)s, coalesce(%(priority)s, 5), %(input)s::jsonb,
          coalesce(%(queue)s, 'default'), coalesce(%(run_after)s::timestamptz, now()),
          coalesce(%(timeout)s, 300), coalesce(%(max_retries)s, 3), %(idempotency_key)s, %(concurrency_key)s)
  on conflict (idempotency_key) do nothing
  returning task_id::text
)
select n.task_id, true as created from new n
union all
select t.task_id::text, false from public.agent_tasks t
 where t.idempotency_key = %(idempotency_key)s and not exists (select from new)
