-- Client.resume_queue: a trigger tells the workers to look.
delete from public.agent_queues where queue = %(queue)s
