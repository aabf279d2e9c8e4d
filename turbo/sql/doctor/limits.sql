-- Doctor: how many limits there are, and a live worker from before them: it starts a task of a key only while none of it runs.
select (select count(*) from public.agent_limits)::int as limits,
       (select w.worker_id from public.agent_workers w
         where w.state in ('up', 'paused') and coalesce(w.schema, 0) < 23
           and w.heartbeat_at between clock_timestamp() - make_interval(secs => w.lease_seconds)
                                  and clock_timestamp() + make_interval(secs => w.lease_seconds)
         order by w.worker_id limit 1) as older
