-- Doctor: the live workers, whose last beat is within their lease.
select w.worker_id, w.name, w.host, w.pid, w.metrics_address, w.problems
  from public.agent_workers w
 where w.state <> 'dead' and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
       and clock_timestamp() + make_interval(secs => w.lease_seconds)
 order by w.host, w.worker_id
