-- Doctor: how many tasks wait for a person, and how long the oldest of their questions has been open (holds do not count for that).
select count(*)::int as waiting,
       greatest(0, extract(epoch from clock_timestamp()
         - min((t.question ->> 'asked_at')::timestamptz) filter (where t.question ->> 'kind' <> 'hold')))::float8 as oldest_seconds
  from public.agent_tasks t
 where t.status = 'waiting'
