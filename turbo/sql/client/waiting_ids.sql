-- Client.waiting_ids: ids of tasks that wait for a person, with this prefix, the longest first, for shell completion. Uses
-- agent_tasks_resting. Nothing of the questions themselves, which may be large. Only ids that no shell interprets: see task_ids.sql.
select t.task_id::text as task_id
  from public.agent_tasks t
 where t.status = 'waiting' and t.question is not null
   and (%(kinds)s::text[] is null or t.question ->> 'kind' = any (%(kinds)s::text[]))
   and t.task_id::text like %(pattern)s::text
   and t.task_id::text ~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$'
 order by (t.question ->> 'asked_at')::timestamptz, t.task_id
 limit %(limit)s
