-- Client.subscriptions.list and get: the subscriptions, by name; `names` null: all of them. unheld_seconds: for how long no worker has
-- held it, null if one does. Reads the table once, or by its key.
select s.name, s.events, s.queue, s.task_type, s.target, s.enabled, s.created_by, s.created_at, s.updated_at,
       case when s.held_until > clock_timestamp() then s.holder end as holder,
       case when s.held_until > clock_timestamp() or s.next_at > clock_timestamp() then null
            else greatest(0, extract(epoch from clock_timestamp() - greatest(s.updated_at, s.looked_at, s.held_until, s.next_at)))::float8
       end as unheld_seconds,
       s.waiting_since, s.delivered, s.delivered_at, s.failures, left(s.error, 2000) as error, s.next_at, clock_timestamp() as now
  from public.agent_subscriptions s
 where %(names)s::text[] is null or s.name = any (%(names)s::text[])
 order by s.name
 limit %(limit)s
