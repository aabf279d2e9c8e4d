-- What earlier runs of one task were told, oldest first: a run that begins a new conversation has not heard it. The latest
-- %(most)s, and about %(bytes)s bytes of them.
select m.message_id, m.body, m.created_by
  from (select a.message_id, a.body, a.created_by,
               sum(octet_length(a.body)) over (order by a.message_id desc) - octet_length(a.body) as before
          from (select o.message_id, o.body, o.created_by
                  from public.agent_messages o
                  join public.agent_tasks t on t.task_id = o.task_id
                 where o.task_id = %(task_id)s::text::public.turbo_task_id and o.delivered_at is not null
                   and o.fencing_token < %(token)s
                   and public.turbo_same_task(o.task_born::double precision, extract(epoch from t.created_at)::double precision)
                 order by o.message_id desc
                 limit %(most)s) a) m
 where m.before < %(bytes)s
 order by m.message_id
