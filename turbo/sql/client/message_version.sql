-- Client.task_version: tells whether there are other messages to a task, or one was delivered. By the index on (task_id, message_id).
select coalesce(max(m.message_id), 0) || ' ' || count(m.delivered_at) as version
  from (select n.message_id, n.delivered_at
          from public.agent_messages n
         where n.task_id = %(task_id)s::text::public.turbo_task_id
         order by n.message_id desc
         limit 100) m
