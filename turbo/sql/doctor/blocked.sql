-- Doctor: how many tasks wait for others; by agent_tasks_at_rest.
select count(*)::int as blocked from public.agent_tasks t where t.status = 'blocked'
