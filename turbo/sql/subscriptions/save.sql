-- The holder writes down how far it has read and delivered, and keeps the subscription for another `lease` seconds. No row: it has lost
-- it, it was removed, paused or changed, or a person has it locked; then it stops, and begins again from what is written.
-- marking: streams whose mark is set now. Its transaction id is this statement's own: whatever was begun before has a lower one.
-- Not before the flush of the log: what a standby or a crash forgets here is delivered again.
with own as (
  select s.name from public.agent_subscriptions s
   where s.name = %(name)s::text and s.holder = %(worker)s::text and s.updated_at = %(updated_at)s::timestamptz and s.enabled
     for update skip locked
)
update public.agent_subscriptions s
   set position = (select jsonb_object_agg(p.key, case when p.key = any (%(marking)s::text[])
                            then p.value || jsonb_build_object('xid', pg_current_xact_id()::text::bigint) else p.value end)
                     from jsonb_each(%(position)s::jsonb) p),
       looked_at = clock_timestamp(), waiting_since = %(waiting_since)s::timestamptz,
       held_until = clock_timestamp() + make_interval(secs => %(lease)s::float8),
       delivered = s.delivered + %(delivered)s::bigint,
       delivered_at = case when %(delivered)s::bigint > 0 then clock_timestamp() else s.delivered_at end,
       failures = case when %(delivered)s::bigint > 0 then 0 else s.failures end,
       error = case when %(delivered)s::bigint > 0 then null else s.error end,
       next_at = case when %(delivered)s::bigint > 0 then null else s.next_at end
  from own o
 where s.name = o.name
returning pg_current_xact_id()::text::bigint as xid
