-- Client.retry: the same hand edit that anybody may type. Finished tasks run again, from their first try.
update public.agent_tasks t
   set status = 'pending'
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[]) and t.status in ('completed', 'failed', 'cancelled')
returning t.task_id::text as task_id, t.status::text as status
