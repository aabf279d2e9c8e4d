-- Doctor: how many schedules there are, and how many of them are paused.
select count(*)::int as schedules, count(*) filter (where not s.enabled)::int as paused from public.agent_schedules s
