-- Status: the tasks that have waited longest for others, at most `limit`. Reads the counts of blocked tasks, the first 100,000 of them.
select b.task_id::text as task_id
  from (select b.task_id, b.since from public.agent_blocked b limit 100000) b
 order by b.since, b.task_id
 limit %(limit)s
