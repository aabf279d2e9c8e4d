-- Client.schedules.tasks: the latest tasks of one schedule, by its slots. A range of the index on idempotency_key, read backward up to
-- the limit: between `first` and `last` stand the keys of this schedule in any collation, beside those of names that differ from its
-- own in punctuation only, where that counts for less. The slot is as the key has it, in UTC.
select t.task_id::text as task_id, t.status::text as status, substr(t.idempotency_key, length(%(prefix)s::text) + 1) as slot,
       t.run_after, t.started_at, t.completed_at, left(t.failure_kind, 100) as failure_kind, left(t.error_message, 200) as error_message
  from public.agent_tasks t
 where t.idempotency_key between %(first)s::text and %(last)s::text and starts_with(t.idempotency_key, %(prefix)s::text)
 order by t.idempotency_key desc
 limit %(limit)s
