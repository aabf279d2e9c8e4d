-- Doctor: how many subscriptions there are, and how many of them are paused.
select count(*)::int as subscriptions, count(*) filter (where not s.enabled)::int as paused from public.agent_subscriptions s
