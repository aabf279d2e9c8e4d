-- The worker says what state it is in: up, draining, paused. Not idle in any but up. Called on changes only.
update public.agent_workers
   set state = %(state)s, idle = idle and %(state)s = 'up'
 where worker_id = %(worker)s and state <> 'dead'
