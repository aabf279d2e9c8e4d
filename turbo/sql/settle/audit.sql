-- The settler's audit: what came past the triggers (replica role, a restored table), or lost what belongs to it. Run by the leader every
-- hour and after a failover; `turbo doctor` counts with the variant `which`. Reads all blocked rows and their open edges, a few us each.
-- A note for every blocked row without a count, for every follow-up without a place, and for every row that waits for a task that is
-- gone, or does not know of it, or whose count is not that of its edges: that edge and the count go, and are made anew. Blocked rows that need nothing are an old poller's own.
-- And the end of `wait`: a need that did not complete, and was not retried for 30 days, now counts as failed for those who wait.
-- Rows that somebody has locked are left for the next audit. Returns how many it found.
with lost as materialized (
  select t.task_id
    from public.agent_tasks t
   where t.status = 'blocked' and (t.needs is not null or t.continues is not null)
     and (select true from public.agent_blocked b where b.task_id = t.task_id) is null
     and not exists (select from public.agent_unsettled u where u.task_id = t.task_id)
     -- a name that is no id is nothing to wait for: such a row stays blocked
     and public.turbo_can_be_tied(t.task_id::text, t.needs::text[], t.continues::text)
  union all
  select t.task_id
    from public.agent_tasks t
   where t.status in ('pending', 'scheduled', 'waiting', 'running') and t.continues is not null and t.conversation is null
     and not exists (select from public.agent_unsettled u where u.task_id = t.task_id)
     and public.turbo_as_task_id(t.continues::text) is not null
), loose as materialized (
  select d.task_id, d.needs
    from public.agent_dependencies d
   where not d.settled and d.gone is null
     and (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = d.task_id)     -- not a hold
     and (select n.needed is not null from public.agent_tasks n where n.task_id = d.needs) is not true
), expired as materialized (
  select d.task_id, d.needs
    from public.agent_dependencies d
   where not d.settled and d.gone is null and d.mode = 'wait'
     and (select n.needed is false and n.status in ('failed', 'cancelled')
                 and greatest(n.completed_at, b.since) < clock_timestamp() - interval '30 days'
            from public.agent_tasks n, public.agent_blocked b where n.task_id = d.needs and b.task_id = d.task_id)
), miscounted as materialized (
  -- not while it is noted: a fan-in is tied in steps, and counted before
  select b.task_id
    from public.agent_blocked b
   where b.failed_need is null
     and b.needs_left <> (select count(*) from public.agent_dependencies d where d.task_id = b.task_id and not d.settled)
     and not exists (select from public.agent_unsettled u where u.task_id = b.task_id)
     and (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = b.task_id)
--end which: ) select (select count(*) from lost) + (select count(*) from (select l.task_id from loose l union select m.task_id from miscounted m) x) + (select count(distinct e.task_id) from expired e) as found
), mine as materialized (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (array(select l.task_id from loose l union select c.task_id from miscounted c union select e.task_id from expired e))
     and t.status is not distinct from 'blocked'
     for no key update of t skip locked
), over as (
  update public.agent_blocked b
     set failed_need = coalesce(b.failed_need, (select min(e.needs::text) from expired e where e.task_id = b.task_id))
   where b.task_id = any (array(select e.task_id from expired e where e.task_id in (select m.task_id from mine m)
                                except select l.task_id from loose l except select c.task_id from miscounted c))
  returning 1
), uncounted as (
  delete from public.agent_blocked b
   where b.task_id = any (array(select m.task_id from mine m
                                 where m.task_id in (select l.task_id from loose l union all select c.task_id from miscounted c)))
), untied as (
  delete from public.agent_dependencies d
   using loose l
   where d.task_id = l.task_id and d.needs = l.needs and not d.settled and d.task_id in (select m.task_id from mine m)
), told as (
  insert into public.agent_unsettled (task_id)
  select l.task_id from lost l union all 
  select l.task_id from (select l.task_id from loose l union select c.task_id from miscounted c) l where l.task_id in (select m.task_id from mine m)
  returning 1
)
select (select count(*) from told) + (select count(*) from over) as found
