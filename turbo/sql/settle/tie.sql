-- The settler's second step: ties the blocked tasks that notes speak of to what they need. For each edge the row of the need is locked,
-- so its end is either seen here, and counts at once, or whatever ends it finds the mark `needed`, which is set here. Only turbo's own
-- short transaction ever holds that lock. What somebody else has locked is left for a later round, with its note: nobody waits.
-- It also takes back tasks that were cancelled because a need failed, once that need is retried or corrected to completed, and those
-- that were cancelled because of them, to any depth: they are blocked again, with a note of their own.
-- Walked by the caller with `after` from 0 until `last` is null: a note that cannot be done yet must not stand before all others.
-- done: notes; remaining: notes that stay; moved: edges, and tasks taken back; queues: to be woken, because a claim that came by has
-- passed rows that were locked here.
-- In no order: it waits for nobody, so no order of locks matters, and sorting ids by their collation costs 8 us each.
-- No joins between these sets, and no equality with a status: whatever the planner believed of the tables when it made the plan, rows
-- are found by arrays of keys, and what belongs to a row in a jsonb map. Joined, a thousand rows were a million comparisons.
with recursive note as materialized (
  select u.note_id, u.task_id
    from public.agent_unsettled u
   where u.note_id > %(after)s
   order by u.note_id
   limit %(notes)s
     for update skip locked
), mine as materialized (
  -- Locked as well, and read as they are then: a person who sets needs to null, or takes a row out of the line, changes its edges and
  -- its count in the same moment. No claim looks at blocked rows.
  select t.task_id, t.needs, coalesce(t.on_needs_failed, 'cancel') as mode, t.continues is not null as follows,
         t.conversation is not null as placed, t.ctid as at, t.status is distinct from 'blocked' as hold
    from public.agent_tasks t
   where t.task_id = any (array(select n.task_id from note n))
     and (t.status is not distinct from 'blocked'
          -- A hold is tied, too, and not counted: if a need is deleted, it learns that by its edge.
          or t.status is not distinct from 'waiting' and t.needs is not null and t.question ->> 'kind' = 'hold')
     -- but for follow-ups that are still to be placed: they may be thousands, and are looked at in every round
     and case when t.continues is null or t.conversation is not null then true else public.turbo_as_task_id(t.continues::text) is null end
     for no key update of t skip locked
), special as materialized (
  -- A need of theirs was deleted, or they were retried: turbo_take_special_notes sees to that first.
  select distinct u.task_id
    from public.agent_unsettled u
   where (u.need is not null or u.retried) and u.task_id = any (array(select n.task_id from note n))
), seen as materialized (
  -- Their counts that lie where this statement's snapshot sees them: then so do their edges, for whoever settles one writes the count.
  select coalesce(jsonb_object_agg(b.task_id::text, true), '{}') as map
    from (select b.task_id, b.ctid as at
            from public.agent_blocked b
           where b.task_id = any (array(select m.task_id from mine m))
             for update of b skip locked) b
   where b.at = (select o.ctid from public.agent_blocked o where o.task_id = b.task_id)
), turn as materialized (
  -- Of rows with many needs a few at a time, and after all others: each need is looked up in each call. How many they are is estimated by
  -- the bytes that they take, because to count them is to read them.
  select m.task_id
    from (select m.task_id, sum(m.weight) over (order by m.weight > 500, random() rows between unbounded preceding and 1 preceding) as before
            from (select m.task_id, coalesce(pg_column_size(m.needs), 0) / 5 as weight from mine m) m) m
   where coalesce(m.before, 0) < 5000
), tieable as materialized (
  select m.task_id
    from mine m
   where case when m.task_id in (select u.task_id from turn u) and (m.placed or not m.follows)
              then public.turbo_can_be_tied(m.task_id::text, m.needs::text[], null::text) else false end
), subject as materialized (
  -- later: a follow-up without a place in its conversation (settle/place.sql), a blocked row that somebody has locked, or its count, or one that is
  -- a later row than this statement's snapshot sees: its edges may be others. untieable: it came past the triggers, and stays blocked.
  -- hold: to be tied, and not counted.
  select m.task_id,
         case when m.task_id not in (select u.task_id from turn u) then 'later'
              when m.task_id not in (select x.task_id from tieable x) then 'untieable'
              when m.task_id in (select s.task_id from special s)
                   or m.at is distinct from (select o.ctid from public.agent_tasks o where o.task_id = m.task_id)
                   or (select true from public.agent_blocked b where b.task_id = m.task_id) and not (select e.map from seen e) ? m.task_id::text
                then 'later'
              when m.hold then 'hold' else 'blocked' end as status, m.needs, m.mode,
         -- counted once a row: a long array lies compressed, and is read whole for that
         case when m.task_id in (select u.task_id from turn u) then cardinality(m.needs) end as many,
         case when m.follows and not m.hold then (select c.after from public.agent_conversations c where c.task_id = m.task_id) end as after
    from mine m
  union all
  select t.task_id,
         case when t.status is not distinct from 'blocked' or t.task_id in (select s.task_id from special s)
                   or t.status is not distinct from 'waiting' and t.needs is not null and t.question ->> 'kind' = 'hold' then 'later'
              when t.continues is not null and t.conversation is null
                   and (t.status::text in ('pending', 'scheduled', 'waiting') or t.fencing_token is not null)
                   and public.turbo_as_task_id(t.continues::text) is not null then 'later'
              else t.status::text end,
         null, null, null, null
    from public.agent_tasks t
   where t.task_id = any (array(select n.task_id from note n except select m.task_id from mine m))
), buried as materialized (
  -- Deleted, and not all who need it know: who needs the next task of that id is tied when they do (turbo_bury).
  select u.need as task_id from public.agent_unsettled u where u.need is not null and u.need = u.task_id
), want as materialized (
  select w.task_id, w.need, w.mode, w.many, w.hold,
         (select true from public.agent_dependencies d where d.task_id = w.task_id and d.needs = w.need) is not null as tied
    from (select s.task_id, n.need::public.turbo_task_id as need, s.mode, s.many, s.status = 'hold' as hold
            from subject s cross join lateral (select distinct unnest(s.needs) as need) n
           where s.status in ('blocked', 'hold') and s.needs is not null
          union all
          select s.task_id, s.after, 'run', 1, false
            from subject s
           where s.status = 'blocked' and s.after is not null and not s.after::text = any (coalesce(s.needs, '{}'))) w
), missing as materialized (
  -- a fan-in of ten thousand is tied in steps: no row of a need is locked for long
  select w.task_id, w.need, w.mode, w.hold from want w
   where not w.tied and w.need not in (select b.task_id from buried b) order by w.many limit %(edges)s
), lost (task_id, origin) as (
  -- cancelled because of a need, and that one is not failed or cancelled any more; as far as %(edges)s of them
  select s.task_id::public.turbo_task_id, true from subject s where s.status not in ('failed', 'cancelled')
  union
  select d.task_id, false
    from lost l
   cross join lateral (select d.task_id
                         from public.agent_dependencies d
                        where d.needs = l.task_id and d.gone is null
                          and (select t.status is not distinct from 'cancelled' and t.failure_kind = 'needs'
                                 from public.agent_tasks t where t.task_id = d.task_id)
                          and (select true from public.agent_unsettled u
                                where u.task_id = d.task_id and (u.need is not null or u.retried) limit 1) is null
                          and not public.turbo_needs_failed(d.task_id::public.turbo_task_id)
                       offset 0) d
), losses as materialized (
  select l.task_id from lost l where not l.origin limit %(edges)s + 1
--end which: ) select w.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = w.task_id)
--|              from (select m.need from missing m union select l.task_id from losses l union select s.task_id from subject s) w(task_id)
), locked as materialized (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (array(select l.task_id from losses l limit %(edges)s))
     and t.status is not distinct from 'cancelled' and t.failure_kind = 'needs'
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
     for update of t skip locked
), reach as materialized (
  select coalesce(jsonb_object_agg(l.task_id::text, true), '{}') as map from locked l
), found (task_id, origin) as (
  -- those of them that hang together: behind one that somebody has locked nothing is taken back
  select s.task_id::public.turbo_task_id, true from subject s where s.status not in ('failed', 'cancelled')
  union
  select d.task_id, false
    from found f
   cross join lateral (select d.task_id
                         from public.agent_dependencies d
                        where d.needs = f.task_id and d.gone is null and (select r.map from reach r) ? d.task_id::text
                       offset 0) d
), doomed (task_id) as (
  -- but not those that would be cancelled again at once: they also need one that was cancelled because of a need, and stays so
  select l.task_id::public.turbo_task_id
    from locked l
   where (select true from public.agent_dependencies d      -- not EXISTS: that may be planned as a join
           where d.task_id = l.task_id and d.mode = 'cancel' and d.gone is null and not (select r.map from reach r) ? d.needs::text
             and (select t.status is not distinct from 'cancelled' from public.agent_tasks t where t.task_id = d.needs)
           limit 1)
  union
  select d.task_id
    from doomed x
   cross join lateral (select d.task_id
                         from public.agent_dependencies d
                        where d.needs = x.task_id and d.mode = 'cancel' and d.gone is null and (select r.map from reach r) ? d.task_id::text
                       offset 0) d
), back as materialized (
  select f.task_id from found f where not f.origin
  except
  select x.task_id from doomed x
), held as materialized (
  select t.task_id, t.queue, t.needed, t.status::text in ('completed', 'failed', 'cancelled') as over,
         -- cancelled, and never run: what came after it in its conversation is not to run either
         case when t.status::text = 'cancelled' and t.fencing_token is null then 'unrun' else t.status::text end as status,
         t.continues is not null and (t.status::text in ('completed', 'failed') and t.fencing_token is null
                                      or public.turbo_left_the_line(t.task_id::public.turbo_task_id)) as never
    from public.agent_tasks t
   -- but for one that is taken back just now: one statement changes a row once, and silently ignores the second change
   where t.task_id = any (array(select m.need from missing m except select b.task_id from back b))
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
     for no key update of t skip locked
), ends as materialized (
  -- Of each need its status. One that is over and whose end is being told just now comes with a later round: whoever tells it does not
  -- see this edge. One that is not there was deleted: the trail knows what it had become.
  select coalesce(jsonb_object_agg(e.need, e.status), '{}') as map
    from (select h.task_id::text as need, h.status from held h where h.needed is not true or not h.over
          union all
          select x.need::text,
                 case when public.turbo_last_status(x.need::public.turbo_task_id) = 'completed' then 'completed'
                      when public.turbo_had_run(x.need::public.turbo_task_id) then 'deleted' else 'unrun' end
            from (select m.need from missing m except select h.task_id from held h) x
           where (select true from public.agent_tasks t where t.task_id = x.need) is null) e
), judged as materialized (
  select j.task_id, j.need, j.mode, j.status in ('completed', 'failed', 'cancelled', 'deleted', 'unrun') as over,
         public.turbo_met(j.mode::text, j.status::text,
                          (select c.after = j.need from public.agent_conversations c where c.task_id = j.task_id)::boolean) as met,
         j.status in ('completed', 'deleted') as final, j.hold, (select true from public.agent_tasks t where t.task_id = j.need) is null as gone
    from (select m.task_id, m.need, m.mode, m.hold, (select e.map from ends e) ->> m.need::text as status from missing m) j
   where j.status is not null
     -- closed before its turn: who comes after it waits for the one before it (turbo_close_ranks)
     and not (j.need = any (array(select h.task_id from held h where h.never))
              and (select c.after = j.need from public.agent_conversations c where c.task_id = j.task_id) is true)
), edge as (
  insert into public.agent_dependencies (task_id, needs, mode, settled, gone)
  select j.task_id, j.need, j.mode,
         case when j.hold then j.gone and j.met else j.over and (j.mode <> 'wait' or j.final or j.gone) end,
         case when j.gone then case when j.met then 'met' else 'unmet' end end
    from judged j
  on conflict do nothing
  returning task_id, needs, settled
), lapsed as (
  -- A need was deleted while it was held, or before it was tied, and that counts as a cancellation.
  update public.agent_dependencies d
     set settled = true
   where d.task_id = any (array(select s.task_id from subject s where s.status = 'blocked')) and d.gone is not null and not d.settled
  returning d.task_id, d.needs
), waited as materialized (
  -- not by holds alone
  select coalesce(jsonb_object_agg(m.need::text, true), '{}') as map from missing m where not m.hold
), marked as (
  -- false: it failed, and who waits now waits for its retry
  update public.agent_tasks t
     set needed = t.status::text not in ('failed', 'cancelled'), turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(select h.task_id from held h
                                 where h.needed is not true and not h.over
                                    or h.needed is null and h.status in ('failed', 'cancelled', 'unrun')
                                       and h.task_id in (select m.need from missing m where m.mode = 'wait')))
     and (select w.map from waited w) ? t.task_id::text
), verdict as materialized (
  -- with the length of the first id: ids may contain any character
  select coalesce(jsonb_object_agg(length(j.need::text) || ' ' || j.need::text || j.task_id::text, j.met), '{}') as map
    from judged j where j.over
), tally as materialized (
  select e.task_id, count(*) filter (where e.met) as met, min(e.needs::text) filter (where not e.met) as failed
    from (select e.task_id, e.needs,
                 ((select v.map from verdict v) ->> (length(e.needs::text) || ' ' || e.needs::text || e.task_id::text))::boolean as met
            from edge e where e.settled and e.task_id not in (select w.task_id from want w where w.hold)
          union all
          select l.task_id, l.needs, false from lapsed l) e
   group by e.task_id
), counted as (
  insert into public.agent_blocked as b (task_id, needs_left, failed_need)
  select x.task_id, sum(x.n), min(x.failed)
    from (select s.task_id, (select count(*) from public.agent_dependencies d where d.task_id = s.task_id and not d.settled) as n,
                 null as failed
            from subject s where s.status = 'blocked'
          union all
          select w.task_id, 1, null from want w where not w.tied and not w.hold
          union all
          select t.task_id, - t.met, t.failed from tally t) x
   group by x.task_id
  on conflict (task_id) do update
     set needs_left = case when (select e.map from seen e) ? b.task_id::text then excluded.needs_left
                           -- another settler has counted it meanwhile
                           else b.needs_left - coalesce((select t.met from tally t where t.task_id = b.task_id), 0) end,
         failed_need = coalesce(b.failed_need, excluded.failed_need)
), revived as (
  update public.agent_tasks t
     set status = 'blocked', completed_at = null, failure_kind = null, error_message = null, turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(select b.task_id from back b))
  returning t.task_id
), uncounted as (
  delete from public.agent_blocked d where d.task_id = any (array(select b.task_id from back b))
), untied as (
  delete from public.agent_dependencies d
   where d.task_id = any (array(select b.task_id from back b))
), told as (
  insert into public.agent_unsettled (task_id, retried)
  select r.task_id, (select true from public.agent_dependencies d where d.needs = r.task_id and d.settled and d.gone is null limit 1)
    from revived r
   order by r.task_id
), trail as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status)
  select r.task_id, 'blocked', true, %(worker)s, 'cancelled', 'blocked' from revived r
), again as materialized (
  -- retried or corrected, while some still wait for it (mode wait): its end is to be told once more
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (array(select s.task_id from subject s where s.status not in ('failed', 'cancelled')
                                except select h.task_id from held h
                                except select b.task_id from back b))
     and t.needed is false
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
     for no key update of t skip locked
), remembered as (
  update public.agent_tasks t
     set needed = true, turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(select a.task_id from again a))
), unfinished as materialized (
  select s.task_id from subject s where s.status = 'later'
  union all
  select b.task_id from buried b
  union all
  select x.task_id
    from (select w.task_id, 1 as wanted, w.tied::int as there from want w
          union all
          select j.task_id, 0, 1 from judged j) x
   group by x.task_id
  having sum(x.there) < sum(x.wanted)
  union all
  -- of those that were lost because of it, somebody has one locked, or there are more than one statement takes
  select s.task_id from subject s
   where s.status not in ('failed', 'cancelled') and (select count(*) from losses) > (select count(*) from locked)
), done as (
  delete from public.agent_unsettled u
   where u.note_id = any (array(select n.note_id from note n where n.task_id not in (select x.task_id from unfinished x)))
  returning 1
)
select (select count(*) from done) as done,
       (select count(*) from note) - (select count(*) from done) as remaining,
       (select count(*) from revived) + (select count(*) from edge) as moved,
       array(select distinct h.queue::text from held h where h.status in ('pending', 'scheduled')) as queues,
       case when (select count(*) from note) = %(notes)s then (select max(n.note_id) from note n) end as last
