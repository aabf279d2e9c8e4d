-- The leader drains: let the next one take over at once.
delete from public.agent_leader where holder = %(worker)s
