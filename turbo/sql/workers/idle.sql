-- Write the idle flag outside a claim: after a reconnect (a failover may have lost it), and false for a deaf worker.
update public.agent_workers set idle = %(idle)s
 where worker_id = %(worker)s and state = 'up' and idle is distinct from %(idle)s
