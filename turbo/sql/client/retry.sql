-- Client.retry: the same update that a person may type. Finished tasks run again, with their retries counted from 0.
-- The rows are locked in the order of their ids first, as in client/cancel.sql.
update public.agent_tasks t
   set status = 'pending'
 where t.task_id = any (array(select l.task_id
                                from public.agent_tasks l
                               where l.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
                                 and l.status in ('completed', 'failed', 'cancelled')
                               order by l.task_id
                                 for no key update))
   and t.status in ('completed', 'failed', 'cancelled')
returning t.task_id::text as task_id, t.status::text as status
