-- Client.questions: may this role read where workers are? turbo_approver may not.
select coalesce(bool_and(has_column_privilege('public.agent_workers', c.name, 'select')), false) as may
  from unnest(array['host', 'queues', 'state', 'heartbeat_at', 'lease_seconds']) c(name)
