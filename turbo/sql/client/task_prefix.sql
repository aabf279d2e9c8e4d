-- Client.resolve: the task with exactly this id, or those whose id begins with it. Up to `limit`.
(select t.task_id::text as task_id from public.agent_tasks t where t.task_id::text = %(task_id)s::text
  limit 1)
union
(select t.task_id::text from public.agent_tasks t where t.task_id::text like %(pattern)s::text
  order by 1 limit %(limit)s)
order by 1
