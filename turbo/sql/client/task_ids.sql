-- Client.newest_ids: ids with this prefix, for shell completion. Reads the table once, as client/tasks.sql does.
-- Only ids that no shell interprets, as turbo/cli/options.py checks once more: others would push them out of the list.
select t.task_id::text as task_id
  from public.agent_tasks t
 where t.task_id::text like %(pattern)s::text
   and t.task_id::text ~ '^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$'
 order by case when t.created_at < statement_timestamp() + interval '1 day' then t.created_at end desc nulls last, t.task_id
 limit %(limit)s
