-- Client.schedules.remove: its tasks stay. A slot that is just fired is before it, and has its task, or not at all.
delete from public.agent_schedules s where s.name = %(name)s::text
