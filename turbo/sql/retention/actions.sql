-- Retention, run by the leader: reads the next old audit rows, up to `limit`, and deletes those whose task is finished.
-- A pass walks the table's pages in slices, from the row where the last batch ended. The audit trail is append-only, so it
-- is read in storage order, without an index that every insert would have to maintain.
-- What a subscription has not delivered yet is kept, for a week at most (turbo_undelivered).
-- Rows without an actor are not turbo's and stay. Safe with two leaders: both walk the pages in order.
with batch as materialized (
  select a.ctid, a.task_id::text::public.turbo_task_id as task_id
    from public.agent_actions a
   where a.ctid > %(after)s::tid
     and a.ctid < format('(%%s,0)', %(to_page)s::bigint)::tid
     and a.executed_at < least(statement_timestamp() - make_interval(secs => %(actions)s::float8), (select public.turbo_undelivered()))
     and a.actor is not null
   limit %(limit)s
--end which: ) select s.ctid::text from batch s
), removed as (
  delete from public.agent_actions d
   where d.ctid = any (array(
           select s.ctid from batch s
            -- one probe of the primary key per row, whatever the planner assumes about the table
            where not coalesce((select t.status in ('pending', 'scheduled', 'running', 'waiting', 'blocked')
                                  from public.agent_tasks t where t.task_id = s.task_id), false)))
  returning 1
)
select (select count(*) from batch) as looked_at, (select count(*) from removed) as deleted,
       (select max(s.ctid)::text from batch s) as after,
       pg_relation_size('public.agent_actions') / current_setting('block_size')::bigint as pages_in_all,
       set_config('synchronous_commit', 'off', true) as fast
