-- Client.tell: the same insert that a person may type; the trigger of agent_messages judges it, and wakes the task's worker. It locks
-- nothing: a result never waits for whoever writes a message.
insert into public.agent_messages (task_id, body)
values (%(task_id)s::text::public.turbo_task_id, %(body)s)
returning message_id, task_id::text as task_id
