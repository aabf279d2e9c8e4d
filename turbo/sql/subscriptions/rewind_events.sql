-- The same as subscriptions/rewind_actions, for agent_events.
select coalesce((select e.event_id from public.agent_events e where e.at < %(since)s::timestamptz
                  order by e.event_id desc limit 1), 0)::bigint as seen
