-- What a subscription has not read yet of the audit trail: rows above `seen`, `walk` of them at most; rows that have appeared in `gaps`
-- since; and those that are `owed`, read before and not delivered. One snapshot answers all of it.
-- seen, gaps: as they are afterwards. A gap up to `mark` is forgotten once every transaction below `xid` has ended: nobody holds its
-- ids any more. marked: that happened. more: there may be more rows. events: what is to be delivered, as an array in the order of ids;
-- text: up to 4,000 characters. Rows without an actor are not turbo's. A task that was deleted, or whose id came again, is told of
-- without its text, and only where the subscription names neither queue nor task_type.
-- Reads an index from `seen` on, and a probe for each gap, owed row and event. Used where action_id is a number (turbo_trail_head).
with walk as materialized (
  select a.action_id, a.action_type, a.from_status, a.to_status, a.actor
    from public.agent_actions a
   where a.action_id > %(seen)s::bigint
   order by a.action_id
   limit %(walk)s::integer
), came as materialized (
  select a.action_id, a.action_type, a.from_status, a.to_status, a.actor
    from unnest(%(gaps)s::int8multirange) g(ids)
   cross join lateral (select c.* from public.agent_actions c where c.action_id >= lower(g.ids) and c.action_id < upper(g.ids)) a
), known as materialized (
  select k.action_id,
         case when k.actor is null then null
              when k.action_type = 'reminded' then 'reminded'
              when k.action_type = 'asked' and k.to_status = 'waiting' then 'asked'
              when k.action_type in ('late', 'deleted') then null
              when k.to_status in ('completed', 'failed', 'cancelled') and k.to_status is distinct from k.from_status then k.to_status end as event
    from (select * from walk union all select * from came
          union all
          select a.action_id, a.action_type, a.from_status, a.to_status, a.actor
            from unnest(%(owed)s::bigint[]) o(action_id)
           cross join lateral (select c.* from public.agent_actions c where c.action_id = o.action_id) a) k
), picked as materialized (
  select a.action_id, k.event, a.task_id::text as task_id, a.executed_at, a.from_status, a.to_status, a.actor, a.detail, a.fencing_token
    from known k
   cross join lateral (select c.* from public.agent_actions c where c.action_id = k.action_id) a
   where k.event = any (%(events)s::text[]) and a.task_id is not null
), told as materialized (
  select p.*, t.task_id is not null as known, t.queue, t.task_type,
         left(case p.event when 'asked' then p.detail #>> '{question,text}'
                           when 'reminded' then t.question ->> 'text'
                           when 'failed' then coalesce(p.detail ->> 'error', t.error_message)
                           when 'cancelled' then t.error_message end, 4000) as text,
         left(t.task_description, 4000) as description
    from picked p
    left join lateral (select c.task_id, c.queue, c.task_type, c.question, c.error_message, c.task_description from public.agent_tasks c
                        where c.task_id = p.task_id::public.turbo_task_id and c.created_at <= p.executed_at) t on true
   where (%(queue)s::text is null or t.queue = %(queue)s::text)
     and (%(task_type)s::text is null or t.task_type = %(task_type)s::text)
), state as (
  select coalesce((select max(w.action_id) from walk w), %(seen)s::bigint) as seen,
         pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %(xid)s::bigint as marked
), gap as (
  select case when s.marked then g.ids * int8multirange(int8range(%(mark)s::bigint + 1, null)) else g.ids end as ids
    from state s
   cross join lateral (select %(gaps)s::int8multirange
                              - coalesce((select range_agg(int8range(c.action_id, c.action_id + 1)) from came c), '{}')
                              + (int8multirange(int8range(%(seen)s::bigint + 1, s.seen + 1))
                                 - coalesce((select range_agg(int8range(w.action_id, w.action_id + 1)) from walk w), '{}')) as ids) g
)
select s.seen, g.ids::text as gaps, coalesce(s.marked, false) as marked, (select count(*) from walk) >= %(walk)s::integer as more,
       coalesce((select jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                          'id', t.action_id, 'event', t.event, 'at', t.executed_at, 'task_id', t.task_id, 'queue', t.queue,
                          'task_type', case when t.known then coalesce(t.task_type, 'default') end, 'from', t.from_status, 'to', t.to_status,
                          'by', t.actor, 'text', coalesce(t.text, t.description), 'attempt', t.detail -> 'attempt')) order by t.action_id)
                   from told t), '[]') as events
  from state s cross join gap g
