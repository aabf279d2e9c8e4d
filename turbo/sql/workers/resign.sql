-- The leader shuts down: the next one may take over at once.
delete from public.agent_leader where holder = %(worker)s
