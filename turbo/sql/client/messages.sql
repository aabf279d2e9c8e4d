-- Client.messages: what people told one task, the newest `limit` in their order. By an index of agent_messages; the body is cut.
select m.message_id, m.body, m.created_at, m.created_by, m.delivered_at, m.follow_up
  from (select m.message_id, left(m.body, 2000) as body, m.created_at, left(m.created_by, 255) as created_by, m.delivered_at,
               left(m.follow_up, 2048) as follow_up
          from public.agent_messages m
         where m.task_id = %(task_id)s::text::public.turbo_task_id
         order by m.message_id desc
         limit %(limit)s) m
 order by m.message_id
