-- Retention, run by the leader: deletes the oldest usage rows that are older than usage_days, `limit` at most, by the index on
-- their time. Safe with two leaders: each row is deleted and counted by one of them.
with removed as (
  delete from public.agent_usage u
   where u.ctid = any (array(
           select o.ctid from public.agent_usage o
            where o.at < statement_timestamp() - make_interval(secs => %(usage)s::float8)
            order by o.at
            limit %(limit)s))
     and u.at < statement_timestamp() - make_interval(secs => %(usage)s::float8)
  returning 1
)
select (select count(*) from removed) as deleted, set_config('synchronous_commit', 'off', true) as fast
