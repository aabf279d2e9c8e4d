-- Client.schedules.pause: no slot fires any more, until it is resumed. The slot that fires meanwhile is before it or not at all: a
-- trigger raises rev, by which the worker's statement is fenced. Safe to repeat. `known`: whether there is such a schedule.
with paused as (
  update public.agent_schedules s set enabled = false where s.name = %(name)s::text and s.enabled returning s.name
)
select exists (select from paused) as changed, exists (select from public.agent_schedules s where s.name = %(name)s::text) as known
