-- Client.schedules.add: the same insert that a person may type; the trigger of agent_schedules judges it, and wakes a worker. What is
-- null gets its default. Returns one row if it was inserted, or changed: only with `replace`, only if something differs, and then
-- whether it is paused stays as it is, unless the new one is to be. No row: there is one of this name, and it was left alone.
insert into public.agent_schedules as s
       (name, cron, timezone, enabled, overlap, catch_up, jitter_seconds, max_failures, task_type, task_description, task_priority,
        input_data, queue, timeout_seconds, max_retries, concurrency_key)
values (%(name)s::text, %(cron)s::text, coalesce(%(timezone)s::text, 'UTC'), %(enabled)s::bool, coalesce(%(overlap)s::text, 'skip'),
        coalesce(%(catch_up)s::text, 'one'), coalesce(%(jitter_seconds)s::int, 0), %(max_failures)s::int, %(task_type)s::text,
        %(text)s::text, %(priority)s::int, %(input)s::text::jsonb, %(queue)s::text, %(timeout)s::int, %(max_retries)s::int,
        %(concurrency_key)s::text)
on conflict (name) do update
   set cron = excluded.cron, timezone = excluded.timezone, enabled = s.enabled and excluded.enabled, overlap = excluded.overlap,
       catch_up = excluded.catch_up, jitter_seconds = excluded.jitter_seconds, max_failures = excluded.max_failures,
       task_type = excluded.task_type, task_description = excluded.task_description, task_priority = excluded.task_priority,
       input_data = excluded.input_data, queue = excluded.queue, timeout_seconds = excluded.timeout_seconds,
       max_retries = excluded.max_retries, concurrency_key = excluded.concurrency_key
 where %(replace)s::bool
   and (s.cron, s.timezone, s.enabled, s.overlap, s.catch_up, s.jitter_seconds, s.max_failures, s.task_type, s.task_description,
        s.task_priority, s.input_data, s.queue, s.timeout_seconds, s.max_retries, s.concurrency_key)
       is distinct from
       (excluded.cron, excluded.timezone, s.enabled and excluded.enabled, excluded.overlap, excluded.catch_up, excluded.jitter_seconds,
        excluded.max_failures, excluded.task_type, excluded.task_description, excluded.task_priority, excluded.input_data, excluded.queue,
        excluded.timeout_seconds, excluded.max_retries, excluded.concurrency_key)
returning s.name
