-- Adoption's backfill, one batch: waiting rows from before the adoption get the run_after that they would have had, their
-- created_at, so that first come is first served. In the order of the table's pages, from behind the row where the last
-- batch ended. A row that somebody has locked is left for the next pass; whoever claims one meanwhile keeps it as it is.
-- Rows that said 'scheduled' before turbo came are somebody else's to promote: turbo would do it at once, so they get a
-- run_after that does not come. Capped a microsecond before the adoption: a row is done when its run_after is another.
with batch as materialized (
  select t.ctid
    from public.agent_tasks t
   where t.ctid > %(after)s::tid and t.ctid < format('(%%s,0)', %(to_page)s::bigint)::tid
     and t.fencing_token is null and (t.run_after = %(adopted_at)s::timestamptz or t.run_after is null)
     and (t.status = 'scheduled' or t.status = 'pending' and (t.created_at is not null or t.queue is null or t.run_after is null))
   limit %(limit)s
     for no key update skip locked
), filled as (
  update public.agent_tasks t
     set run_after = case when t.status = 'scheduled' then %(adopted_at)s::timestamptz + interval '100 years'
                          else greatest(least(t.created_at::timestamptz - make_interval(secs => %(ahead)s::float8),
                                              %(adopted_at)s::timestamptz - interval '1 microsecond'), 'epoch') end,
         queue = coalesce(t.queue, 'default'), turbo_rev = t.turbo_rev + 1
   where t.ctid = any (array(select s.ctid from batch s))
  returning 1
)
select (select count(*) from batch) as looked_at, (select count(*) from filled) as filled, (select max(s.ctid)::text from batch s) as after,
       pg_relation_size('public.agent_tasks') / current_setting('block_size')::bigint as pages
