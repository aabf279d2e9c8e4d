-- Takes the task for one whose conversation only its own host has. Returns that host, if it is another one than this. Called by a worker
-- that could not rebuild the session of a task it has claimed.
with gone as (
  delete from public.agent_portable p where p.task_id = %(task_id)s::text::public.turbo_task_id
)
select case when t.prefer_host is distinct from %(host)s then t.prefer_host end as host
  from public.agent_tasks t
 where t.task_id = %(task_id)s::text::public.turbo_task_id
