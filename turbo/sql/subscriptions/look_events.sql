-- What a subscription has not read yet of agent_events. The same as subscriptions/look_actions, for events that belong to no task: its
-- queue and task_type do not count for them.
with walk as materialized (
  select e.event_id from public.agent_events e where e.event_id > %(seen)s::bigint order by e.event_id limit %(walk)s::integer
), came as materialized (
  select e.event_id
    from unnest(%(gaps)s::int8multirange) g(ids)
   cross join lateral (select c.event_id from public.agent_events c where c.event_id >= lower(g.ids) and c.event_id < upper(g.ids)) e
), told as materialized (
  select e.event_id, e.event, e.at, e.about, e.detail
    from (select event_id from walk union all select event_id from came union all select unnest(%(owed)s::bigint[])) k
   cross join lateral (select c.* from public.agent_events c where c.event_id = k.event_id) e
   where e.event = any (%(events)s::text[])
), state as (
  select coalesce((select max(w.event_id) from walk w), %(seen)s::bigint) as seen,
         pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(xid)s::bigint as marked
), gap as (
  select case when s.marked then g.ids * int8multirange(int8range(%(mark)s::bigint + 1, null)) else g.ids end as ids
    from state s
   cross join lateral (select %(gaps)s::int8multirange
                              - coalesce((select range_agg(int8range(c.event_id, c.event_id + 1)) from came c), '{}')
                              + (int8multirange(int8range(%(seen)s::bigint + 1, s.seen + 1))
                                 - coalesce((select range_agg(int8range(w.event_id, w.event_id + 1)) from walk w), '{}')) as ids) g
)
select s.seen, g.ids::text as gaps, coalesce(s.marked, false) as marked, (select count(*) from walk) >= %(walk)s::integer as more,
       coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                          'id', t.event_id, 'event', t.event, 'at', t.at, 'about', t.about, 'detail', t.detail)) order by t.event_id)
                   from told t), '[]') as events
  from state s cross join gap g
