-- A delivery failed: nobody tries again for `wait` seconds. The position is written as well: what has been read stays owed. release: the
-- holder gives it up, so that the next try may be another worker's, on another host. Returns how many have failed in a row; no row: as
-- in subscriptions/save.
with own as (
  select s.name from public.agent_subscriptions s
   where s.name = %(name)s::text and s.holder = %(worker)s::text and s.updated_at = %(updated_at)s::timestamptz and s.enabled
     for update skip locked
)
update public.agent_subscriptions s
   set position = %(position)s::jsonb, looked_at = clock_timestamp(), waiting_since = %(waiting_since)s::timestamptz,
       failures = least(s.failures, 1000000000) + 1, error = %(error)s::text,
       next_at = clock_timestamp() + make_interval(secs => %(wait)s::float8),
       holder = case when not %(release)s::bool then s.holder end,
       held_until = case when not %(release)s::bool
                         then clock_timestamp() + make_interval(secs => %(wait)s::float8 + %(lease)s::float8) end
  from own o
 where s.name = o.name
returning s.failures
