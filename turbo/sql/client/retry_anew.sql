-- Client.retry with `anew`: the same update that a person may type. Forgets the conversation, and the host that has it: the next run,
-- on any host, begins a new one. A finished task runs again; one that waits or rests keeps its status. A running task is left out: its
-- worker has the conversation. The rows are locked in the order of their ids first, as in client/cancel.sql.
update public.agent_tasks t
   set status = case when t.status in ('completed', 'failed', 'cancelled') then 'pending' else t.status::text end::public.turbo_status,
       agent_session_id = null, prefer_host = null
 where t.task_id = any (array(select l.task_id
                                from public.agent_tasks l
                               where l.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
                                 and l.status in ('pending', 'scheduled', 'blocked', 'waiting', 'completed', 'failed', 'cancelled')
                               order by l.task_id
                                 for no key update))
   and t.status in ('pending', 'scheduled', 'blocked', 'waiting', 'completed', 'failed', 'cancelled')
returning t.task_id::text as task_id, t.status::text as status
