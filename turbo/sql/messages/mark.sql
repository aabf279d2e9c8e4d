-- Which run was given a message, and whether its agent has it (`delivered`). Only while that run is the row's last one: what a
-- run that lost its task has, is still to be told to the next one. A replay changes nothing. digest: of what the message says. A
-- failover hands out numbers again, and another message of that number was not told.
update public.agent_messages m
   set delivered_at = case when i.delivered then clock_timestamp() end, fencing_token = i.token
  from unnest(%(message_id)s::bigint[], %(token)s::bigint[], %(delivered)s::boolean[], %(digest)s::bytea[])
       i(message_id, token, delivered, digest)
 where m.message_id = any (%(message_id)s::bigint[]) and m.message_id = i.message_id and m.delivered_at is null
   and sha256(convert_to(m.body, 'UTF8')) = i.digest
   and (select t.fencing_token from public.agent_tasks t where t.task_id = m.task_id) in (i.token, - i.token)
