-- Status and doctor: the subscriptions that need a person, at most `limit`, the worst first: `failing` deliveries or more failed in a row,
-- or no worker has held it for a minute. of_all: how many there are.
with judged as (
  select s.name, s.target, s.failures, left(s.error, 2000) as error,
         extract(epoch from clock_timestamp() - s.waiting_since)::float8 as waiting_seconds,
         case when coalesce(s.held_until > clock_timestamp(), false) or coalesce(s.next_at > clock_timestamp(), false) then null
              else extract(epoch from clock_timestamp() - greatest(s.updated_at, s.looked_at, s.held_until, s.next_at))::float8
         end as unheld_seconds
    from public.agent_subscriptions s
   where s.enabled
)
select j.name, j.target, j.failures, j.error, j.waiting_seconds, j.unheld_seconds, count(*) over ()::int as of_all
  from judged j
 where j.failures >= %(failing)s::integer or j.unheld_seconds > 60
 order by j.failures < %(failing)s::integer, j.waiting_seconds desc nulls last, j.name
 limit %(limit)s
