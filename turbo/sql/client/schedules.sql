-- Client.schedules.list and get: the schedules, by name; `names` null: all of them. `now` is the clock that their slots are counted by.
-- Reads the table once, or by its key. Without `whole`, the texts that may be large are cut, and input_data is left out.
select s.name, s.cron, s.timezone, s.enabled, s.overlap, s.catch_up, s.jitter_seconds, s.max_failures, s.task_type,
       case when %(whole)s then s.task_description else left(s.task_description, 200) end as task_description, s.task_priority,
       case when %(whole)s then s.input_data end as input_data, s.queue, s.timeout_seconds, s.max_retries, s.concurrency_key,
       s.created_by, s.created_at, s.updated_at, s.since, s.next_at, s.last_at, s.fired_at, s.run_at, s.skipped, s.skipped_at,
       s.failures, left(s.error, 2000) as error, clock_timestamp() as now
  from public.agent_schedules s
 where %(names)s::text[] is null or s.name = any (%(names)s::text[])
 order by s.name
 limit %(limit)s
