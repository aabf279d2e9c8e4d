-- Client.questions: of these hosts, those with a live worker, and the queues that it serves.
select distinct w.host, q.queue
  from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
 where w.host = any (%(hosts)s::text[]) and w.state in ('up', 'paused')
   and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
       and clock_timestamp() + make_interval(secs => w.lease_seconds)
