-- Status: requirements of pending tasks that no live worker of their queue meets; see turbo_unplaceable. Those of the most tasks first.
select u.queue, u.requires, u.tasks::int as tasks, u.task_id, u.worker_id, u.lacks
  from public.turbo_unplaceable(1000::integer) u
 order by u.tasks desc, u.queue, u.requires
 limit %(limit)s
