-- Client.resume_queue: a trigger notifies the workers, which then poll.
delete from public.agent_queues where queue = %(queue)s
