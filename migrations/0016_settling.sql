-- turbo: compatible-from 3
-- What the settler asks of the database besides its statements (turbo/sql/settle/): whether there is anything for it, and the places of
-- follow-ups in their conversations.

-- An edge is updated once, when it is settled: with room on its page, no index is touched.
alter table public.agent_dependencies set (fillfactor = 50);

-- Whether the settler has anything to do: a note, the end of a task that others wait for, a blocked task that waits for nothing any
-- more, in a queue that no older worker serves, a message that no run will take. A few looks into indexes that are almost always empty. Asked by every poll.
create or replace function public.turbo_unsettled() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return exists (select from public.agent_unsettled)
      -- The first condition on the status is that of the index; the second one is looked up in it. Not as a list: that would fit the
      -- index of finished tasks, too, and all of those would be read. COALESCE: of the type under the domain, which may be an enum.
      or exists (select from public.agent_tasks t
                  where t.needed is true and t.status not in ('pending', 'running', 'scheduled', 'waiting', 'blocked')
                    and t.status = any (array(select coalesce(s::public.turbo_status, null) from unnest('{completed,failed,cancelled}'::text[]) s)))
      or exists (select from public.agent_blocked b where b.needs_left <= 0 or b.failed_need is not null)
         and exists (select from public.agent_blocked b
                      where (b.needs_left <= 0 or b.failed_need is not null)      -- those of older workers stay as they are
                        and (select t.queue::text = any ((select public.turbo_older_queues())::text[])
                               from public.agent_tasks t where t.task_id = b.task_id) is not true)
      or public.turbo_messages_left_over();
end $$;

-- The queues that a live worker serves which does not know blocked tasks: one from before this file. While it lives, nothing in them
-- is let go: it would run tasks without what they need, and follow-ups beside their conversation.
create or replace function public.turbo_older_queues() returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return array(select distinct q.queue from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
                where w.state <> 'dead' and coalesce(w.schema, 0) < 16);
end $$;

-- A text as the id of a task; null: it is none. Only for rows that may have come past the triggers: it costs a subtransaction.
create or replace function public.turbo_as_task_id(name text) returns public.turbo_task_id
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return name::public.turbo_task_id;
exception when data_exception then
  return null;
end $$;

-- Whether a task can be tied to what it names: all of them ids of tasks, and none so long that a pair does not fit an index. A row that
-- came past the triggers may name anything. Asked once for a row: it costs a subtransaction.
create or replace function public.turbo_can_be_tied(task text, needs text[], continues text) returns boolean
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if array_position(needs, null) is not null
     or (select max(octet_length(n.need)) from unnest(needs) n(need)) + octet_length(task) > 2600 then return false; end if;
  perform needs::public.turbo_task_id[], continues::public.turbo_task_id;
  return true;
exception when data_exception then
  return false;
end $$;

-- What a task that is gone had become, as far as the audit trail knows: its last status there; null: it does not know.
create or replace function public.turbo_last_status(task public.turbo_task_id) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (select a.to_status::text from public.agent_actions a
           where a.task_id = task and a.to_status is not null order by a.executed_at desc limit 1);
end $$;

-- A task that is gone was run, as far as the audit trail knows.
create or replace function public.turbo_had_run(task public.turbo_task_id) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (select true from public.agent_actions a where a.task_id = task and a.fencing_token is not null limit 1) is not null;
end $$;

-- Whether a task that was cancelled because of a need has one that is failed, cancelled by hand, or gone, without whom it would be cancelled
-- again: it stays cancelled, whichever other need is retried. Not for one that was cancelled because of a need itself.
create or replace function public.turbo_needs_failed(task public.turbo_task_id) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return exists (
    select from public.agent_dependencies d
     where d.task_id = task
       and case when d.gone is not null then d.gone = 'unmet'
                else coalesce((select n.status::text in ('failed', 'cancelled') and d.mode <> 'wait'
                                      and (n.status::text = 'failed' or n.failure_kind is distinct from 'needs')
                                      and not public.turbo_met(
                                        d.mode::text, (case when n.status::text = 'cancelled' and n.fencing_token is null then 'unrun' else n.status::text end)::text,
                                        (select c.after = d.needs from public.agent_conversations c where c.task_id = task)::boolean)
                                 from public.agent_tasks n where n.task_id = d.needs),
                              d.mode <> 'run' and public.turbo_last_status(d.needs::public.turbo_task_id) is distinct from 'completed') end);
end $$;

-- Whether nobody waits for this task in its conversation. A hold is waited for by nobody: it may need, or be needed by, who comes after it.
-- Nor is one that has left the line.
create or replace function public.turbo_passed_by(task public.turbo_task_id) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (select t.status::text = 'waiting' and t.fencing_token is null and t.continues is not null
            from public.agent_tasks t where t.task_id = task) is true
         or public.turbo_left_the_line(task::public.turbo_task_id);
end $$;

-- Whom the next one of a conversation waits for: the last one up to `upto` that is not passed by. Of thousands that are, the sixteen last
-- ones are looked at, and then those whom the passed ones wait for: each knows the last one before it, so nobody walks past all of them.
create or replace function public.turbo_last_in_line(number bigint, upto bigint) returns public.turbo_task_id
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  member record;
  before public.turbo_task_id;
begin
  for member in
    select c.task_id, c.after from public.agent_conversations c
     where c.conversation = number and c.place <= upto order by c.place desc limit 16
  loop
    before := member.task_id;
    if not public.turbo_passed_by(before::public.turbo_task_id) then return before; end if;
  end loop;
  before := member.after;
  while before is not null and public.turbo_passed_by(before::public.turbo_task_id) loop
    before := (select c.after from public.agent_conversations c where c.task_id = before and c.conversation = number);
  end loop;
  return before;
end $$;

-- Whether a follow-up may go on with this task, asked when it gets its place: the insert was judged by what its snapshot showed, and the
-- row of that id may be another one by now. One of the same login, or of a login that has, or can take, the right to update `status`. Not
-- asked of what turbo inserted for somebody, of what ran, nor of what a person let run.
create or replace function public.turbo_may_go_on(task public.turbo_task_id, before public.turbo_task_id) returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  follow record;
  other  record;
begin
  select t.submitted_by, t.fencing_token is null and t.status::text in ('blocked', 'waiting')
                         and (t.idempotency_key is null or left(t.idempotency_key, 8) not in ('message ', 'schedule')) as asked
    into follow
    from public.agent_tasks t where t.task_id = task;
  select t.submitted_by into other from public.agent_tasks t where t.task_id = before;
  if not found or follow.asked is not true or follow.submitted_by is null        -- restored
     or follow.submitted_by is not distinct from other.submitted_by then return true; end if;
  return exists (select from pg_roles me cross join pg_roles r
                  where me.rolname = follow.submitted_by and pg_has_role(me.oid, r.oid, 'member')
                    and has_column_privilege(r.oid, 'public.agent_tasks', 'status', 'update'));
end $$;

-- Gives one follow-up its place in its conversation: the last one. One that may not go on with that task is cancelled, as the first one of
-- a conversation of its own. `before`: the task that it goes on from. A conversation that has
-- no number yet gets one, and that task its place 0.
-- Locks the two rows and the conversation, so that the order is the same for all, and waits for none: false, and nothing is done, if
-- somebody has one of them. `queues`: where a claim that came by in the meantime has passed a row that was locked here, or did not take
-- one because it had no place.
create or replace function public.turbo_place(task public.turbo_task_id, before public.turbo_task_id, inout queues text[], out placed boolean)
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  root   record;
  follow record;
  number bigint;
  tail   record;
begin
  placed := false;
  select t.queue::text as queue, t.status::text as status, t.conversation into follow
    from public.agent_tasks t where t.task_id = task and t.conversation is null for no key update skip locked;
  if not found then return; end if;
  select t.queue::text as queue, t.status::text as status, t.conversation into root
    from public.agent_tasks t where t.task_id = before for no key update skip locked;
  if not found and (select true from public.agent_tasks t where t.task_id = before) then return; end if;

  if not public.turbo_may_go_on(task::public.turbo_task_id, before::public.turbo_task_id) then
    insert into public.agent_conversations (task_id, place, first) values (task, 0, task::text) returning conversation into number;
    update public.agent_tasks t
       set conversation = number, status = 'cancelled'::text::public.turbo_status, completed_at = clock_timestamp(),
           failure_kind = 'refused', turbo_rev = t.turbo_rev + 1,
           error_message = 'it continues ' || before::text || ', which is a task of another login, whose conversation is not for all'
     where t.task_id = task;
    insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, detail)
    values (task, 'needs_failed', false, session_user, follow.status, 'cancelled', jsonb_build_object('need', before::text));
    placed := true;
    return;
  end if;

  number := root.conversation;
  if number is null then
    -- A task that is gone leaves its place empty: the follow-up is the first of what is left.
    insert into public.agent_conversations (task_id, place, after, first)
    select case when root.queue is null then task else before end, 0, case when root.queue is null then before end,
           case when root.queue is null then task::text else before::text end
    returning conversation into number;
    if root.queue is not null then
      update public.agent_tasks t set conversation = number, turbo_rev = t.turbo_rev + 1 where t.task_id = before;
    end if;
  else
    perform from public.agent_conversations c where c.conversation = number order by c.place limit 1 for update skip locked;
    if not found then return; end if;
  end if;
  if root.queue is not null then
    select c.task_id, c.place, c.first into tail
      from public.agent_conversations c where c.conversation = number order by c.place desc limit 1;
    insert into public.agent_conversations (task_id, conversation, place, after, first)
    values (task, number, coalesce(tail.place, 0) + 1, tail.task_id, coalesce(tail.first, before::text));
    update public.agent_conversations c
       set after = public.turbo_last_in_line(number::bigint, tail.place::bigint)
     where c.task_id = task and tail.task_id is not null
       and ((select t.fencing_token is null and t.status::text = 'waiting' from public.agent_tasks t where t.task_id = tail.task_id)
            or public.turbo_left_the_line(tail.task_id::public.turbo_task_id));
  end if;
  update public.agent_tasks t
     set conversation = number, turbo_rev = t.turbo_rev + 1,
         prefer_host = case when t.fencing_token is null and t.status::text in ('pending', 'scheduled')     -- a person lets it run
                            then coalesce(t.prefer_host, public.turbo_host_before(task::public.turbo_task_id)) else t.prefer_host end
   where t.task_id = task;
  placed := true;
  if follow.status = 'pending' then queues := queues || follow.queue; end if;
  if root.status = 'pending' then queues := queues || root.queue; end if;
end $$;

-- Whether a follow-up has left the line before its turn: a person closed it, or let it run at once, and the one before it is not over.
-- Who comes after it waits for the one before it. Not stable: a statement that has locked the task asks for its latest row.
create or replace function public.turbo_left_the_line(task public.turbo_task_id) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return coalesce((select t.continues is not null
                          and (t.fencing_token is null and t.status::text in ('completed', 'failed')
                               or (t.status::text in ('pending', 'scheduled', 'running')
                                   or t.fencing_token is not null and t.status::text in ('waiting', 'completed', 'failed', 'cancelled'))
                                  and exists (select from public.agent_conversations c join public.agent_tasks a on a.task_id = c.after
                                               where c.task_id = task and a.status::text not in ('completed', 'failed', 'cancelled')
                                                 -- its turn would have come only with that edge settled
                                                 and (select d.settled from public.agent_dependencies d
                                                       where d.task_id = task and d.needs = c.after) is not true))
                     from public.agent_tasks t where t.task_id = task), false);
end $$;

-- The host that has the directory and the session of a task that ran: the one that recorded its end, or the one of its last claim, as
-- long as that worker's row is there. Null: nobody knows.
create or replace function public.turbo_host_of(task public.turbo_task_id) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (select coalesce(t.prefer_host::text,
                          (select w.host::text from public.agent_workers w
                            where w.worker_id = coalesce(t.assigned_worker_id::text,
                                                         (select a.actor::text from public.agent_actions a
                                                           where a.task_id = t.task_id and a.action_type = 'claimed'
                                                           order by a.executed_at desc limit 1))))
            from public.agent_tasks t where t.task_id = task and t.fencing_token is not null);
end $$;

-- The host of the last run of the conversation that this task goes on with: for one that a person lets run before its turn.
create or replace function public.turbo_host_before(task public.turbo_task_id) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return (select public.turbo_host_of(p.task_id::public.turbo_task_id)
            from public.agent_conversations c
            join public.agent_conversations o on o.conversation = c.conversation and o.task_id <> c.task_id
            join public.agent_tasks p on p.task_id = o.task_id
           where c.task_id = task and p.fencing_token is not null
           order by abs(greatest(p.fencing_token, -9223372036854775807)) desc
           limit 1);
end $$;

-- Lets a blocked follow-up wait for the last one before it that is in the line still: its edges and its count are made anew. It has a
-- note. Nothing is done while somebody has it locked.
create or replace function public.turbo_close_ranks(task public.turbo_task_id) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  before public.turbo_task_id := (select c.after from public.agent_conversations c where c.task_id = task);
begin
  if before is null or not public.turbo_left_the_line(before::public.turbo_task_id) then return; end if;
  perform from public.agent_tasks t where t.task_id = task and t.status is not distinct from 'blocked' for no key update skip locked;
  if not found then return; end if;
  while before is not null and public.turbo_left_the_line(before::public.turbo_task_id) loop
    before := (select c.after from public.agent_conversations c where c.task_id = before);
  end loop;
  update public.agent_conversations c set after = before where c.task_id = task;
  delete from public.agent_blocked b where b.task_id = task and b.failed_need is null;
  if found or (select true from public.agent_blocked b where b.task_id = task) is null then
    delete from public.agent_dependencies d
     where d.task_id = task and (not d.settled or (select true from public.agent_tasks n where n.task_id = d.needs));
  end if;
  insert into public.agent_unsettled (task_id) values (task);
end $$;

-- These tasks are to be cancelled already, because a need failed, and that one did not fail after all: what they wait for is tied and
-- counted anew. Their rows and counts are locked by the caller.
create or replace function public.turbo_count_anew(tasks public.turbo_task_id[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  delete from public.agent_blocked b where b.task_id = any (tasks);
  delete from public.agent_dependencies d where d.task_id = any (tasks) and d.gone is null;
  update public.agent_dependencies d set settled = false where d.task_id = any (tasks) and d.gone = 'unmet';
  insert into public.agent_unsettled (task_id) select t.task_id from unnest(tasks) t(task_id);
end $$;

-- A need of this task was deleted, as a note says (turbo_forget): its edge is marked, and made if there is none. met: that counts as met,
-- however it was counted before. The task has a note, so settle/tie.sql counts it anew. false: somebody has the task, the edge or its
-- count locked.
create or replace function public.turbo_mark_gone(task public.turbo_task_id, need public.turbo_task_id, met boolean) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  waits record;
begin
  select need::text = any (t.needs) as named, coalesce(t.on_needs_failed, 'cancel') as mode into waits
    from public.agent_tasks t where t.task_id = task for no key update skip locked;
  if not found then return (select true from public.agent_tasks t where t.task_id = task) is null; end if;
  perform from public.agent_dependencies d where d.task_id = task and d.needs = need for update skip locked;
  if found then
    perform from public.agent_blocked b where b.task_id = task for update skip locked;
    if not found and (select true from public.agent_blocked b where b.task_id = task) then return false; end if;
    update public.agent_dependencies d
       set gone = case when met then 'met' else 'unmet' end, settled = met
     where d.task_id = task and d.needs = need and d.gone is null;
    if found and met and (select b.failed_need = need::text from public.agent_blocked b where b.task_id = task) then
      perform public.turbo_count_anew(array[task]::public.turbo_task_id[]);
    end if;
  elsif (select true from public.agent_dependencies d where d.task_id = task and d.needs = need) then
    return false;
  elsif waits.named then
    insert into public.agent_dependencies (task_id, needs, mode, settled, gone)
    values (task, need, waits.mode, met, case when met then 'met' else 'unmet' end);
  end if;
  return true;
end $$;

-- This task was deleted by a transaction whose snapshot may not have seen all that need it, as a note says (turbo_forget): all edges to it
-- are marked, and those of tasks that were noted before and are not tied yet. settle/tie.sql ties nobody to its id before this is done: who
-- needs the next task of that id is tied after it. completed: null means that it never ran. Up to `most` edges; false: there are more,
-- or somebody has one of those tasks locked.
create or replace function public.turbo_bury(note bigint, deleted public.turbo_task_id, completed boolean, most integer) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  ended text    := case when completed then 'completed' when completed is null then 'unrun' else 'deleted' end;
  many  integer := 0;
  done  boolean := true;
  waits record;
begin
  for waits in
    select w.task_id, w.mode, (select c.after = deleted from public.agent_conversations c where c.task_id = w.task_id) is true as before
      from (select d.task_id, d.mode from public.agent_dependencies d where d.needs = deleted and d.gone is null
            union
            select t.task_id, t.mode
              from (select distinct u.task_id from public.agent_unsettled u where u.note_id < note and u.task_id <> deleted) u
             cross join lateral (select t.task_id, coalesce(t.on_needs_failed, 'cancel') as mode from public.agent_tasks t
                                  where t.task_id = u.task_id and t.status::text in ('blocked', 'waiting') and deleted::text = any (t.needs)
                                    and (select true from public.agent_dependencies d where d.task_id = t.task_id and d.needs = deleted) is null
                                 offset 0) t) w
     limit most
  loop
    many := many + 1;
    if public.turbo_mark_gone(waits.task_id::public.turbo_task_id, deleted::public.turbo_task_id,
                              public.turbo_met(waits.mode::text, ended::text, waits.before::boolean)::boolean) then
      insert into public.agent_unsettled (task_id) values (waits.task_id);
    else
      done := false;
    end if;
  end loop;
  return done and many < most;
end $$;

-- A task that others need is not over any more, or was corrected to completed: those that still wait, and have counted it, wait for it
-- again, and its end is told to them once more. Up to `most` of them; false: there are more, or somebody has one of them locked.
-- In one transaction with the end of the note: until then settle/settle.sql lets none of them go.
create or replace function public.turbo_reopen(need public.turbo_task_id, most integer) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  wanted  public.turbo_task_id[];
  mine    public.turbo_task_id[];
  told    public.turbo_task_id[];       -- they are to be cancelled already, because a need failed
begin
  wanted := array(select d.task_id from public.agent_dependencies d
                   where d.needs = need and d.settled and d.gone is null
                     and (select t.status is not distinct from 'blocked' from public.agent_tasks t where t.task_id = d.task_id)
                   limit most);
  if wanted = '{}' then return true; end if;
  perform from public.agent_tasks t where t.task_id = need for no key update skip locked;
  if not found then return (select true from public.agent_tasks t where t.task_id = need) is null; end if;
  mine := array(select t.task_id from public.agent_tasks t
                 where t.task_id = any (wanted) and t.status is not distinct from 'blocked' for no key update skip locked);
  mine := array(select d.task_id from public.agent_dependencies d
                 where d.needs = need and d.task_id = any (mine) and d.settled and d.gone is null for update skip locked);
  -- With their counts; who has none is counted when it is tied.
  mine := array(select b.task_id from public.agent_blocked b where b.task_id = any (mine) for update skip locked)
          || array(select m.task_id from unnest(mine) m(task_id)
                    where (select true from public.agent_blocked b where b.task_id = m.task_id) is null);
  if mine = '{}' then return false; end if;
  told := array(select b.task_id from public.agent_blocked b where b.task_id = any (mine) and b.failed_need is not null);
  update public.agent_dependencies d set settled = false where d.needs = need and d.task_id = any (mine);
  update public.agent_blocked b set needs_left = b.needs_left + 1 where b.task_id = any (mine);
  update public.agent_tasks t set needed = true, turbo_rev = t.turbo_rev + 1 where t.task_id = need and t.needed is not true;
  if told <> '{}' then
    perform public.turbo_count_anew(told::public.turbo_task_id[]);
  end if;
  return cardinality(mine) = cardinality(wanted) and cardinality(wanted) < most;
end $$;

-- The notes that say more than "look at this task": a need of it was deleted, or it is retried. What is done leaves a plain note.
-- queues: to be woken, because a claim that came by may have passed a row that was locked here.
create or replace function public.turbo_take_special_notes(after bigint, most integer, inout queues text[], out done bigint)
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  noted record;
begin
  done := 0;
  for noted in
    select u.note_id, u.task_id, u.need, u.met
      from (select * from public.agent_unsettled u where u.note_id > turbo_take_special_notes.after order by u.note_id limit most) u
     where u.need is not null or u.retried
  loop
    if (case when noted.need = noted.task_id
                  then public.turbo_bury(noted.note_id::bigint, noted.need::public.turbo_task_id, noted.met::boolean, 1000::integer)
             when noted.need is null then public.turbo_reopen(noted.task_id::public.turbo_task_id, 1000::integer)
            else public.turbo_mark_gone(noted.task_id::public.turbo_task_id, noted.need::public.turbo_task_id, noted.met::boolean) end) then
      update public.agent_unsettled u set need = null, met = null, retried = null where u.note_id = noted.note_id;
      done := done + 1;
    end if;
    queues := queues || array(select t.queue::text from public.agent_tasks t where t.task_id = noted.task_id and t.status::text = 'pending');
  end loop;
end $$;

-- The settler's first step: places for the follow-ups that notes speak of, whatever their status, in the order of their notes; but for
-- those that are over and never ran. One that runs, or ran, has lost its place in a failover, and its run goes on: none runs beside it. One
-- whose predecessor has no place either comes after that one. Nothing of a conversation passes a follow-up that somebody has locked.
-- Every follow-up is looked at once in a call: of a chain of thousands whose first one somebody has locked, too.
-- Reads `most` notes with ids above `after`. last: of these notes, null if there are no more; placed: rows; left: rows that have to wait.
create or replace function public.turbo_place_follow_ups(after bigint, most integer,
  out placed bigint, out remaining bigint, out last bigint, out queues text[])
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  noted record;
  line  text[];                       -- a follow-up without a place, then what it goes on from, and so on
  upper text;
  mark  text;                         -- the one of `line` at the last power of two: a line that comes to it again is a circle
  up    record;
  held  text[] := '{}';               -- conversations in which somebody has a row locked
  stuck text[] := '{}';               -- follow-ups that get no place in this call
  given boolean;
  woken text[];
  name  text;
  many  bigint;
begin
  placed := 0; remaining := 0; queues := '{}';
  select count(*), max(u.note_id) into many, last
    from (select u.note_id from public.agent_unsettled u where u.note_id > turbo_place_follow_ups.after order by u.note_id limit most) u;
  for noted in
    select f.task_id, f.continues
      from (select u.task_id, min(u.note_id) as note
              from (select u.task_id, u.note_id from public.agent_unsettled u
                     where u.note_id > turbo_place_follow_ups.after order by u.note_id limit most) u
             group by u.task_id) u
     cross join lateral (select t.task_id::text as task_id, public.turbo_as_task_id(t.continues::text)::text as continues
                           from public.agent_tasks t
                          where t.task_id = u.task_id and t.continues is not null and t.conversation is null
                             and (t.status::text in ('blocked', 'pending', 'scheduled', 'waiting') or t.fencing_token is not null)
                          offset 0) f
     where f.continues is not null
     order by u.note
  loop
    line := array[noted.task_id]; upper := noted.continues; mark := noted.task_id; name := null; up := null;
    while name is null loop
      if line[cardinality(line)] = any (stuck) then name := line[cardinality(line)]; exit; end if;
      select t.conversation, public.turbo_as_task_id(t.continues::text)::text as continues into up
        from public.agent_tasks t where t.task_id = upper::public.turbo_task_id;
      line := line || upper;
      if up.conversation is not null then name := 'conversation ' || up.conversation;
      elsif up.continues is null or upper = mark then name := 'task ' || upper;
      end if;
      if cardinality(line) & (cardinality(line) - 1) = 0 then mark := upper; end if;
      upper := up.continues;
    end loop;
    for n in reverse cardinality(line) - 1 .. 1 loop      -- the one before first
      -- placed meanwhile: by an earlier note, or by another settler
      continue when (select t.conversation from public.agent_tasks t where t.task_id = line[n]::public.turbo_task_id) is not null;
      given := false;
      if name <> all (held) and line[n + 1] <> all (stuck) then
        begin
          select p.queues, p.placed into woken, given
            from public.turbo_place(line[n]::public.turbo_task_id, line[n + 1]::public.turbo_task_id, queues::text[]) p;
        exception when others or assert_failure then    -- the owner's constraint or trigger refuses it, or another settler was quicker
          if sqlstate ~ '^(08|25|40|53|55P03|57|58|XX|2200H)' then raise; end if;
          given := false;
          raise warning 'task % gets no place in its conversation: %', public.turbo_shown(line[n]::text, 200::integer), sqlerrm;
        end;
      end if;
      if not given then
        name := coalesce('conversation ' || (select t.conversation from public.agent_tasks t
                                              where t.task_id = line[n + 1]::public.turbo_task_id), name);
        if name <> all (held) then held := held || name; end if;
        stuck := stuck || line[1:n];
        remaining := remaining + 1;
        exit;
      end if;
      queues := woken; placed := placed + 1;
    end loop;
  end loop;
  for noted in
    select distinct f.task_id
      from (select u.task_id from public.agent_unsettled u where u.note_id > turbo_place_follow_ups.after order by u.note_id limit most) u
     cross join lateral (select c.task_id from public.agent_conversations c where c.task_id = u.task_id
                         union all
                         select o.task_id from public.agent_conversations c join public.agent_conversations o on o.conversation = c.conversation
                          where c.task_id = u.task_id and o.after = c.task_id and public.turbo_left_the_line(c.task_id::public.turbo_task_id)
                         offset 0) f
  loop
    perform public.turbo_close_ranks(noted.task_id::public.turbo_task_id);
  end loop;
  select placed + s.done, s.queues into placed, woken
    from public.turbo_take_special_notes(turbo_place_follow_ups.after::bigint, most::integer, queues::text[]) s;
  queues := woken;
  if many < most then last := null; end if;
end $$;
revoke all on function
  public.turbo_mark_gone(public.turbo_task_id, public.turbo_task_id, boolean), public.turbo_reopen(public.turbo_task_id, integer), public.turbo_count_anew(public.turbo_task_id[]),
  public.turbo_bury(bigint, public.turbo_task_id, boolean, integer),
  public.turbo_take_special_notes(bigint, integer, text[]),
  public.turbo_unsettled(), public.turbo_older_queues(), public.turbo_last_status(public.turbo_task_id),
  public.turbo_had_run(public.turbo_task_id), public.turbo_needs_failed(public.turbo_task_id), public.turbo_place(public.turbo_task_id, public.turbo_task_id, text[]), public.turbo_left_the_line(public.turbo_task_id),
  public.turbo_passed_by(public.turbo_task_id), public.turbo_may_go_on(public.turbo_task_id, public.turbo_task_id), public.turbo_last_in_line(bigint, bigint),
  public.turbo_host_of(public.turbo_task_id), public.turbo_host_before(public.turbo_task_id), public.turbo_close_ranks(public.turbo_task_id),
  public.turbo_place_follow_ups(bigint, integer)
  from public;
-- Whoever may write a claim is a worker: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand.
do $$
declare
  worker record;
begin
  for worker in
    select distinct p.grantee from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant select (ctid) on public.agent_tasks to %1$s;
                    grant execute on function
                      public.turbo_wake(text), public.turbo_mark_gone(public.turbo_task_id, public.turbo_task_id, boolean), public.turbo_reopen(public.turbo_task_id, integer), public.turbo_count_anew(public.turbo_task_id[]),
  public.turbo_bury(bigint, public.turbo_task_id, boolean, integer),
                      public.turbo_take_special_notes(bigint, integer, text[]),
                      public.turbo_unsettled(), public.turbo_older_queues(), public.turbo_last_status(public.turbo_task_id),
                      public.turbo_had_run(public.turbo_task_id), public.turbo_needs_failed(public.turbo_task_id), public.turbo_place(public.turbo_task_id, public.turbo_task_id, text[]), public.turbo_left_the_line(public.turbo_task_id),
  public.turbo_passed_by(public.turbo_task_id), public.turbo_may_go_on(public.turbo_task_id, public.turbo_task_id), public.turbo_last_in_line(bigint, bigint),
  public.turbo_host_of(public.turbo_task_id), public.turbo_host_before(public.turbo_task_id), public.turbo_close_ranks(public.turbo_task_id),
                      public.turbo_place_follow_ups(bigint, integer) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
