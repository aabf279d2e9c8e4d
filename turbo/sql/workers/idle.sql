-- Sets the idle flag outside a claim: after a reconnect (a failover may have lost it), and to false for a worker whose
-- LISTEN does not deliver.
update public.agent_workers set idle = %(idle)s
 where worker_id = %(worker)s and state = 'up' and idle is distinct from %(idle)s
