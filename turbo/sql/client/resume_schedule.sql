-- Client.schedules.resume: slots count from now on; a trigger clears the error and the count of failures, and wakes a worker. One that
-- is on and in error is tried again. Safe to repeat. `known`: whether there is such a schedule.
with resumed as (
  update public.agent_schedules s set enabled = true
   where s.name = %(name)s::text and (not s.enabled or s.error is not null)
  returning s.name
)
select exists (select from resumed) as changed, exists (select from public.agent_schedules s where s.name = %(name)s::text) as known
