-- Retention, run by the leader: deletes the oldest events that are older than actions_days, `limit` at most, by the index on their
-- time. What a subscription has not delivered yet is kept, for a week at most (turbo_undelivered). Safe with two leaders: each row is deleted and counted by one of them.
with removed as (
  delete from public.agent_events e
   where e.ctid = any (array(
           select o.ctid from public.agent_events o
            where o.at < least(statement_timestamp() - make_interval(secs => %(actions)s::float8), (select public.turbo_undelivered()))
            order by o.at
            limit %(limit)s))
     and e.at < least(statement_timestamp() - make_interval(secs => %(actions)s::float8), (select public.turbo_undelivered()))
  returning 1
)
select (select count(*) from removed) as deleted, set_config('synchronous_commit', 'off', true) as fast
