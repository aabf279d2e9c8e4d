-- Every worker that has targets (notify), every few seconds while there are such subscriptions, else with its poll: the subscriptions that
-- it could deliver. mine: it holds them. free: it may take them. trail, stream: the highest ids of agent_actions and agent_events, by
-- which the holder sees whether there is anything to read. trail is null where action_id is no number. Reads one small table, and the
-- last entry of two indexes.
select s.name, s.target, s.holder is not distinct from %(worker)s::text and s.held_until > clock_timestamp() as mine,
       (s.next_at is null or s.next_at <= clock_timestamp())
         and (s.holder is null or s.holder = %(worker)s::text or s.held_until <= clock_timestamp()
              or not exists (select from public.agent_workers w where w.worker_id = s.holder and w.state <> 'dead')) as free,
       s.updated_at, h.trail, h.stream
  from public.agent_subscriptions s
 cross join (select public.turbo_trail_head() as trail,
                    coalesce((select e.event_id from public.agent_events e order by e.event_id desc limit 1), 0) as stream) h
 where s.enabled and s.target = any (%(targets)s::text[])
 order by s.name
 limit %(most)s
