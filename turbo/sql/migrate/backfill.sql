-- Adoption's backfill, one batch: rows that waited before the adoption get their created_at as run_after, so that the
-- oldest runs first. Batches follow the table's pages, from the row where the last batch ended. A locked row is left for
-- the next pass; a row claimed meanwhile keeps its values.
-- Rows that were 'scheduled' before the adoption belong to another program. turbo would promote them at once, so their
-- run_after moves far into the future. Backfilled values end a microsecond before the adoption: that marks a row as done.
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
