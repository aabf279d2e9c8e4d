-- Client.submit and submit_many: insert tasks, all or none, one row of parameters per task.
-- A task without an id gets one from the column's default (text, uuid or a sequence), in the order of `n`.
-- If an idempotency key is taken, the task that has it comes back; `created` tells the two cases apart. A key missing from
-- the answer was committed by another session after this snapshot: ask again for those.
-- A hold is written into `status`, which only its variant names. What a task needs, continues and requires, and its trace, has a variant,
-- too, with the status; needs: each an array as text. So an ordinary submit names none of these columns.
-- Tasks with an id are inserted first: one without may need them, the other way round nobody knows its id.
with input as materialized (
  select i.n, i.task_id, coalesce(i.task_type, 'default') as task_type, i.text, coalesce(i.priority, 5) as priority,
         i.input::jsonb as input, coalesce(i.queue, 'default') as queue, coalesce(i.run_after, now()) as run_after,
         coalesce(i.timeout, 300) as timeout, coalesce(i.max_retries, 3) as max_retries, i.idempotency_key, i.concurrency_key
         --if held: , (case when i.hold then 'waiting' else 'pending' end)::public.turbo_status as status
         --if work: , (case when i.hold then 'waiting' else 'pending' end)::public.turbo_status as status, i.needs::text[] as needs,
         --if work:   i.on_needs_failed, i.continues, i.parent_task_id::public.turbo_task_id as parent_task_id, i.requires::jsonb as requires, i.traceparent
    from unnest(%(task_id)s::text[], %(task_type)s::text[], %(text)s::text[], %(priority)s::int[], %(input)s::text[],
                %(queue)s::text[], %(run_after)s::timestamptz[], %(timeout)s::int[], %(max_retries)s::int[],
                %(idempotency_key)s::text[], %(concurrency_key)s::text[]
                --if held: , %(hold)s::bool[]
                --if work: , %(hold)s::bool[], %(needs)s::text[], %(on_needs_failed)s::text[], %(continues)s::text[], %(parent_task_id)s::text[],
                --if work: %(requires)s::text[], %(traceparent)s::text[]
               ) with ordinality
         as i(task_id, task_type, text, priority, input, queue, run_after, timeout, max_retries, idempotency_key,
              concurrency_key,
              --if held: hold,
              --if work: hold, needs, on_needs_failed, continues, parent_task_id, requires, traceparent,
              n)
), unnamed as (
  insert into public.agent_tasks (task_type, task_description, task_priority, input_data, queue, run_after,
                                  timeout_seconds, max_retries, idempotency_key, concurrency_key
                                  --if held: , status
                                  --if work: , status, needs, on_needs_failed, continues, parent_task_id, requires, traceparent
                                 )
  select i.task_type, i.text, i.priority, i.input, i.queue, i.run_after, i.timeout, i.max_retries, i.idempotency_key,
         i.concurrency_key
         --if held: , i.status
         --if work: , i.status, i.needs, i.on_needs_failed, i.continues, i.parent_task_id, i.requires, i.traceparent
    from input i where i.task_id is null order by i.n
  on conflict (idempotency_key) do nothing
  returning task_id::text, idempotency_key
), named as (
  insert into public.agent_tasks (task_id, task_type, task_description, task_priority, input_data, queue, run_after,
                                  timeout_seconds, max_retries, idempotency_key, concurrency_key
                                  --if held: , status
                                  --if work: , status, needs, on_needs_failed, continues, parent_task_id, requires, traceparent
                                 )
  overriding system value                   -- for an adopted key that is generated always: a given id wins
  select i.task_id::public.turbo_task_id, i.task_type, i.text, i.priority, i.input, i.queue, i.run_after, i.timeout,
         i.max_retries, i.idempotency_key, i.concurrency_key
         --if held: , i.status
         --if work: , i.status, i.needs, i.on_needs_failed, i.continues, i.parent_task_id, i.requires, i.traceparent
    from input i where i.task_id is not null order by i.n
  on conflict (idempotency_key) do nothing
  returning task_id::text, idempotency_key
)
select m.task_id, m.idempotency_key, true as created, true as named from named m
union all
select u.task_id, u.idempotency_key, true, false from unnamed u
union all
select t.task_id::text, t.idempotency_key, false, false from public.agent_tasks t
 where t.idempotency_key in (select i.idempotency_key from input i)
