-- Is this queue served by a live worker now, and is it paused?
select exists (select from public.agent_workers w
                where w.state in ('up', 'paused') and %(queue)s::text = any (w.queues)
                  and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
                      and clock_timestamp() + make_interval(secs => w.lease_seconds)) as served,
       exists (select from public.agent_queues q where q.queue = %(queue)s::text and q.paused) as paused
