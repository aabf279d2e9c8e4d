-- Sets the worker's state: up, draining or paused. Only an up worker may be idle. Called on changes, and after a
-- reconnect (a failover may have lost it).
update public.agent_workers
   set state = %(state)s, idle = idle and %(state)s = 'up'
 where worker_id = %(worker)s and state <> 'dead'
