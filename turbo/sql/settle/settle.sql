-- The settler's third step: tells what is over to those who wait for it, and lets go who waits for nothing any more: pending,
-- scheduled (its own run_after is still to come), or cancelled, and then with all that needs it, to any depth. Right with any number of
-- settlers at once: a need, an edge, a count and a blocked task are each locked by one of them. What another settler has, or a person, is
-- left for a later round. It waits for nobody, so it is in no deadlock, in whatever order it locks.
-- A count falls by what this very statement settled, so an edge counts once, whatever its reader's snapshot.
-- The task before a follow-up in its conversation is an edge of mode run: its end is enough, but not if it was cancelled and never ran.
-- Rows in a queue that an older worker serves stay as they are (turbo_older_queues).
-- Walked by the caller with `after` from null until `last` is null: ready rows that cannot be let go must not stand before all others.
-- passed: ids, as a JSON object: what earlier calls of the same walk found in somebody's hands, needs and those who wait for them. They are
-- left out, for they must not stand before all others. held_up: those that this call found, to be left out by the next ones.
-- let_go, cancelled: tasks; moved: all that this call changed, 0: nothing is left to do, or it is in somebody's hands; queues: where rows
-- became pending; later: some became scheduled; last: of the ready rows that were looked at. As it was before this call: notes, messages:
-- there are some for the settler's other steps; unsettled: there was anything to do (turbo_unsettled).
-- No joins between these sets, and no equality with a status: see settle/tie.sql.
with recursive over as materialized (
  -- The first condition on the status is that of the index agent_tasks_at_rest; the second one is looked up in it. Not as a list: that
  -- would fit the index of finished tasks, too, and all of those would be read. COALESCE: of the type under the domain, which may be an enum.
  select t.task_id, t.ctid as at, t.status::text = 'completed' as completed,
         t.continues is not null and (t.status::text in ('completed', 'failed') and t.fencing_token is null
                                      or public.turbo_left_the_line(t.task_id::public.turbo_task_id)) as never,
         case when t.status::text = 'cancelled' and t.fencing_token is null then 'unrun' else t.status::text end as status
    from public.agent_tasks t
   where t.needed is true and t.status not in ('pending', 'running', 'scheduled', 'waiting', 'blocked')
     and t.status = any (array(select coalesce(s::public.turbo_status, null) from unnest('{completed,failed,cancelled}'::text[]) s))
     and not (select %(passed)s::text::jsonb) ? t.task_id::text
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
   limit %(needs)s
     for update of t skip locked
), ends as materialized (
  select coalesce(jsonb_object_agg(o.task_id::text, o.status), '{}') as map from over o
), closed as materialized (
  -- A follow-up that a person closed, or let run, before its turn: who comes after it waits for the one before it (turbo_close_ranks).
  select d.task_id
    from public.agent_dependencies d
   where d.needs = any (array(select o.task_id from over o where o.never)) and not d.settled and d.gone is null
     and (select c.after = d.needs from public.agent_conversations c where c.task_id = d.task_id)
     and (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = d.task_id)    -- it may be closed, too
), edge as materialized (
  select d.ctid as at, d.task_id
    from public.agent_dependencies d
   where d.needs = any (array(select o.task_id from over o))
     and not d.settled
     and (d.mode <> 'wait' or d.needs = any (array(select o.task_id from over o where o.completed)))
     and (d.task_id <> all (array(select c.task_id from closed c)) or d.needs <> all (array(select o.task_id from over o where o.never)))
     and d.gone is null
     and not (select %(passed)s::text::jsonb) ? d.task_id::text
   limit %(edges)s
     for update of d skip locked
), ready as materialized (
  select b.task_id
    from public.agent_blocked b
   where (b.needs_left <= 0 or b.failed_need is not null)
     and (%(after)s::text is null or b.task_id > %(after)s::text::public.turbo_task_id)
     -- Not even locked: this is looked at again and again while an older worker lives.
     and ((select public.turbo_older_queues()) = '{}'
          or (select t.queue::text = any ((select public.turbo_older_queues())::text[])
                from public.agent_tasks t where t.task_id = b.task_id) is not true)
   order by b.task_id
   limit %(edges)s
--end which: ) select w.task_id::text, (select t.fencing_token from public.agent_tasks t where t.task_id = w.task_id)
--|              from (select o.task_id from over o union select e.task_id from edge e union select r.task_id from ready r) w
), count as materialized (
  select b.task_id, b.needs_left, b.failed_need
    from public.agent_blocked b
   where b.task_id = any (array(select e.task_id from edge e union all select r.task_id from ready r))
     for update of b skip locked
), settled as (
  update public.agent_dependencies d
     set settled = true
   -- locked, so they lie where they were found
   where d.ctid = any (array(select e.at from edge e
                              where e.task_id in (select c.task_id from count c)
                                 or (select true from public.agent_blocked b where b.task_id = e.task_id) is null))  -- nobody waits here any more
  returning d.task_id, d.needs,
            public.turbo_met(d.mode::text, ((select e.map from ends e) ->> d.needs::text)::text,
                             (select c.after = d.needs from public.agent_conversations c where c.task_id = d.task_id)::boolean) as met
), fate as materialized (
  select x.task_id, sum(x.n)::int as needs_left, min(x.failed) as failed_need, bool_or(x.changed) as changed,
         sum(x.n) <= 0 or min(x.failed) is not null as ready
    from (select c.task_id, c.needs_left as n, c.failed_need as failed, true as counted, false as changed from count c
          union all
          select s.task_id, - s.met::int, case when not s.met then s.needs::text end, false, true from settled s) x
   group by x.task_id
  having bool_or(x.counted)
), failure as materialized (
  select coalesce(jsonb_object_agg(f.task_id::text, f.failed_need) filter (where f.failed_need is not null), '{}') as map from fate f
), reopened as materialized (
  -- A need of theirs that they have counted is not over any more (turbo_reopen).
  select d.task_id
    from public.agent_unsettled u
   cross join lateral (select d.task_id from public.agent_dependencies d where d.needs = u.task_id and d.settled and d.gone is null offset 0) d
   where u.retried
  union all
  -- Or was deleted since, and had not completed (turbo_mark_gone).
  select u.task_id from public.agent_unsettled u where u.need is not null and not u.met
), free as materialized (
  select t.task_id, t.continues is not null and t.fencing_token is null as follows
    from public.agent_tasks t
   where t.task_id = any (array(select f.task_id from fate f where f.ready))
     and t.status is not distinct from 'blocked'        -- not an equality: with that, planned early, it was a walk of all blocked rows
     and t.task_id not in (select r.task_id from reopened r)
     and t.queue::text <> all ((select public.turbo_older_queues())::text[])
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
     for update of t skip locked
), below (task_id, origin) as (
  -- who needs one that is cancelled here, and so is cancelled too; as far as %(edges)s of them
  select r.task_id::public.turbo_task_id, true from free r where (select f.map from failure f) ? r.task_id::text
  union
  select d.task_id, false
    from below b
   cross join lateral (select d.task_id
                         from public.agent_dependencies d
                        where d.needs = b.task_id and d.gone is null and not d.settled and d.mode = 'cancel'
                          and (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = d.task_id)
                       offset 0) d
), deep as materialized (
  select b.task_id from below b where not b.origin limit %(edges)s
), deep_edge as materialized (
  select d.ctid as at, d.task_id, d.needs
    from public.agent_dependencies d
   where d.task_id = any (array(select p.task_id from deep p)) and d.gone is null and not d.settled and d.mode = 'cancel'
     for update of d skip locked
), deep_count as materialized (
  select b.task_id
    from public.agent_blocked b
   where b.task_id = any (array(select e.task_id from deep_edge e except select r.task_id from free r))
     for update of b skip locked
), deep_task as materialized (
  select t.task_id
    from public.agent_tasks t
   where t.task_id = any (array(select c.task_id from deep_count c)) and t.status is not distinct from 'blocked'
     and t.queue::text <> all ((select public.turbo_older_queues())::text[])
     --if aside: and t.task_id <> all (%(aside)s::text[]::public.turbo_task_id[])
     --if only: and t.task_id = any (%(only)s::text[]::public.turbo_task_id[])
     for update of t skip locked
), reach as materialized (
  select coalesce(jsonb_object_agg(e.at::text, true), '{}') as map
    from deep_edge e where e.task_id in (select p.task_id from deep_task p)
), fall (task_id, origin) as (
  -- those of them that hang together by edges and rows that are locked here
  select r.task_id::public.turbo_task_id, true from free r where (select f.map from failure f) ? r.task_id::text
  union
  select d.task_id, false
    from fall f
   cross join lateral (select d.task_id
                         from public.agent_dependencies d
                        where d.needs = f.task_id and (select r.map from reach r) ? d.ctid::text
                       offset 0) d
), fallen as materialized (
  select f.task_id, f.origin from fall f
), down as materialized (
  select coalesce(jsonb_object_agg(f.task_id::text, true), '{}') as map from fallen f
), fell_by as materialized (
  select e.at, e.task_id, e.needs
    from deep_edge e
   where (select d.map from down d) ? e.needs::text and (select d.map from down d) ? e.task_id::text
), fell as (
  update public.agent_dependencies d set settled = true where d.ctid = any (array(select e.at from fell_by e)) returning d.task_id
), of as materialized (
  select (select f.map from failure f)
           || coalesce((select jsonb_object_agg(e.task_id, e.need)
                          from (select e.task_id::text as task_id, min(e.needs::text) as need from fell_by e group by e.task_id) e), '{}') as failed,
         -- a follow-up that never ran takes over the session, and the host, of the task before it; or of one that ran after that, because
         -- it was not in the line then
         coalesce((select jsonb_object_agg(r.task_id::text,
                            (select jsonb_build_object('session', p.agent_session_id, 'host', public.turbo_host_of(p.task_id::public.turbo_task_id))
                               from public.agent_conversations c
                              cross join lateral (select c.after as task_id
                                                  union all
                                                  (select o.task_id from public.agent_conversations o
                                                    where o.conversation = c.conversation and o.place > c.place order by o.place limit 100)) o
                               join public.agent_tasks p on p.task_id = o.task_id
                              where c.task_id = r.task_id
                                and (o.task_id = c.after                        -- a run knows its session when it is over
                                     or p.fencing_token is not null and p.status is distinct from 'running')
                              order by abs(greatest(p.fencing_token, -9223372036854775807)) desc nulls last limit 1))
                     from free r where r.follows), '{}') as before
), counts as materialized (
  select coalesce(jsonb_object_agg(f.task_id::text, f.needs_left), '{}') as needs_left from fate f where f.changed
), let_go as (
  update public.agent_tasks t
     set status = (case when (select o.failed from of o) ? t.task_id::text then 'cancelled'
                        when t.run_after > clock_timestamp() then 'scheduled' else 'pending' end)::public.turbo_status,
         run_after = case when (select o.failed from of o) ? t.task_id::text then t.run_after
                          else greatest(t.run_after, clock_timestamp()) end,
         completed_at = case when (select o.failed from of o) ? t.task_id::text then clock_timestamp() end,
         failure_kind = case when (select o.failed from of o) ? t.task_id::text then 'needs' end,
         error_message = case when (select o.failed from of o) ? t.task_id::text
                              then 'it needs ' || ((select o.failed from of o) ->> t.task_id::text) || ', which did not complete'
                              else t.error_message end,
         agent_session_id = coalesce((select o.before from of o) -> t.task_id::text ->> 'session', t.agent_session_id),
         prefer_host = coalesce((select o.before from of o) -> t.task_id::text ->> 'host', t.prefer_host),
         turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(select r.task_id from free r union all select f.task_id from fallen f))
  returning t.task_id, t.status::text as status, t.queue::text as queue,
            case when t.status::text = 'cancelled' then public.turbo_tell_who_waits(t.task_id::text, t.status::text) end as told
), woken as materialized (
  -- Each queue once, in place of once for each row (turbo_wake_change).
  select q.queue, public.turbo_wake(q.queue::text), set_config('turbo.woken', 'on', true)
    from (select distinct l.queue from let_go l where l.status = 'pending') q
), trail as (
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, detail)
  select l.task_id, case when l.status = 'cancelled' then 'needs_failed' else 'unblocked' end, l.status <> 'cancelled', %(worker)s,
         'blocked', l.status, case when l.status = 'cancelled' then jsonb_build_object('need', (select o.failed from of o) -> l.task_id::text) end
    from let_go l
), kept as (
  update public.agent_blocked b
     set needs_left = ((select c.needs_left from counts c) ->> b.task_id::text)::int, failed_need = (select f.map from failure f) ->> b.task_id::text
   where b.task_id = any (array(select f.task_id from fate f where f.changed
                                except select r.task_id from free r except select f.task_id from fallen f))
), gone as (
  delete from public.agent_blocked b
   where b.task_id = any (array(select r.task_id from free r
                                union all
                                select f.task_id from fallen f where not f.origin
                                union all
                                select x.task_id                   -- a person took it out of the line, or deleted it
                                  from (select f.task_id from fate f where f.ready and not f.changed
                                        except select r.task_id from free r except select f.task_id from fallen f) x
                                 where (select t.status::text from public.agent_tasks t where t.task_id = x.task_id) is distinct from 'blocked'))
  returning 1
), told_to as materialized (
  select s.needs, count(*) as n from settled s group by s.needs
), told as (
  -- Over, and all who waited for it were told: the mark goes; false while some wait on (mode wait). Not if the row that was locked is a
  -- later one than this statement's snapshot sees: an edge may have come between. Told by the row's place, not by completed_at, which may
  -- lie ahead (a clock, a zone) or be null.
  update public.agent_tasks t
     set needed = case when t.status <> 'completed'
                        and (select true from public.agent_dependencies d
                              where d.needs = t.task_id and d.mode = 'wait' and d.gone is null and not d.settled limit 1) then false end,
         turbo_rev = t.turbo_rev + 1
   where t.task_id = any (array(
           select o.task_id from over o
            where o.at = (select s.ctid from public.agent_tasks s where s.task_id = o.task_id)
              and (select count(*) from public.agent_dependencies d
                    where d.needs = o.task_id and d.gone is null and not d.settled and (o.completed or d.mode <> 'wait'))
                  <= coalesce((select s.n from told_to s where s.needs = o.task_id), 0)))
  returning t.task_id, t.status::text = 'completed' as completed
), closed_up as (
  insert into public.agent_unsettled (task_id) select c.task_id from closed c
), late as (
  -- Some were told of another end before, as of a run that was failed and then succeeded after all. If they were cancelled because of
  -- that, settle/tie.sql takes them back.
  insert into public.agent_unsettled (task_id)
  select t.task_id from told t
   where t.completed and (select true from public.agent_dependencies d where d.needs = t.task_id and d.settled and d.gone is null limit 1)
), held_up as materialized (
  select e.task_id from edge e
  except
  select s.task_id from settled s
  union all
  -- a need of which this call could do nothing, though it looked at all its edges
  select x.task_id
    from (select o.task_id from over o except select s.needs from settled s except select t.task_id from told t) x
   where (select count(*) from edge) < %(edges)s
)
select (select count(*) from let_go l where l.status <> 'cancelled') as let_go,
       (select count(*) from let_go l where l.status = 'cancelled') as cancelled,
       (select count(*) from settled) + (select count(*) from let_go) + (select count(*) from gone) + (select count(*) from told) as moved,
       array(select w.queue from woken w) as queues,
       exists (select from let_go l where l.status = 'scheduled') as later,
       case when (select count(*) from ready) = %(edges)s then (select r.task_id::text from ready r order by r.task_id desc limit 1) end as last,
       array(select h.task_id::text from held_up h) as held_up,
       exists (select from public.agent_unsettled) or exists (select from closed) as notes,
       public.turbo_messages_left_over() as messages,
       public.turbo_unsettled() as unsettled
