-- Retention, run by the leader: the next old rows of the trail in one slice of the table's pages, from behind the row where
-- the last batch ended, up to `limit`; all but those of tasks that are not finished are deleted. The trail is only ever
-- appended to, so it is read through as it lies, without an index that every insert would have to pay for.
-- Rows without an actor are not turbo's and stay. Right with two leaders at once: both go through the pages in order.
with batch as materialized (
  select a.ctid, a.task_id::text::public.turbo_task_id as task_id
    from public.agent_actions a
   where a.ctid > %(after)s::tid
     and a.ctid < format('(%%s,0)', %(to_page)s::bigint)::tid
     and a.executed_at < statement_timestamp() - make_interval(secs => %(actions)s::float8)
     and a.actor is not null
   limit %(limit)s
), removed as (
  delete from public.agent_actions d
   where d.ctid = any (array(
           select s.ctid from batch s
            -- one probe of the key a row, whatever the planner thinks of the table
            where not coalesce((select t.status in ('pending', 'scheduled', 'running')
                                  from public.agent_tasks t where t.task_id = s.task_id), false)))
  returning 1
)
select (select count(*) from batch) as looked_at, (select count(*) from removed) as deleted,
       (select max(s.ctid)::text from batch s) as after,
       pg_relation_size('public.agent_actions') / current_setting('block_size')::bigint as pages_in_all,
       set_config('synchronous_commit', 'off', true) as fast
