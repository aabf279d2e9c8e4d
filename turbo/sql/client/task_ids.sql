-- Client.newest_ids: ids with this prefix, for shell completion. Reads the table once, as client/tasks.sql does.
select t.task_id::text as task_id
  from public.agent_tasks t
 where t.task_id::text like %(pattern)s::text
 order by case when t.created_at < statement_timestamp() + interval '1 day' then t.created_at end desc nulls last, t.task_id
 limit %(limit)s
