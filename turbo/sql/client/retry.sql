-- Client.retry: the same update that a person may type. Finished tasks run again, with their retries counted from 0.
update public.agent_tasks t
   set status = 'pending'
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[]) and t.status in ('completed', 'failed', 'cancelled')
returning t.task_id::text as task_id, t.status::text as status
