-- Client.budgets.remove: what it closed is open at once. What was used stays in agent_usage.
delete from public.agent_budgets b where b.name = %(name)s::text
