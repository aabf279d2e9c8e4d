-- turbo: compatible-from 3
-- What the settler asks of the database besides its statements (turbo/sql/settle/): whether there is anything for it, and the places of
-- follow-ups in their conversations.

-- An edge is updated once, when it is settled: with room on its page, no index is touched.
alter table public.agent_dependencies set (fillfactor = 50);

-- Whether the settler has anything to do: a note, the end of a task that others wait for, a blocked task that waits for nothing any
-- more, a message that no run will take. A few looks into indexes that are almost always empty. Asked by every poll.
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
       and coalesce(
             (select case n.status::text
                       when 'failed' then d.mode = 'cancel'
                       when 'cancelled' then n.failure_kind is distinct from 'needs'
                                             and (d.mode = 'cancel' or d.mode = 'run' and n.fencing_token is null
                                                  and (select c.after = d.needs from public.agent_conversations c where c.task_id = task) is true)
                       else false end
                from public.agent_tasks n where n.task_id = d.needs),
             d.mode <> 'run' and public.turbo_last_status(d.needs::public.turbo_task_id) is distinct from 'completed'));
end $$;

-- Gives one follow-up its place in its conversation: the last one. `before`: the task that it goes on from. A conversation that has
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
    -- A hold is waited for by nobody: it may need, or be needed by, who comes after it. Nor is one that has left the line.
    update public.agent_conversations c
       set after = (select o.task_id
                      from public.agent_conversations o join public.agent_tasks t on t.task_id = o.task_id
                     where o.conversation = number and o.place <= tail.place
                       and not (t.status::text = 'waiting' and t.fencing_token is null and t.continues is not null)
                       and not public.turbo_left_the_line(o.task_id::public.turbo_task_id)
                     order by o.place desc limit 1)
     where c.task_id = task and tail.task_id is not null
       and (select t.fencing_token is null and t.status::text in ('waiting', 'completed', 'failed', 'pending', 'scheduled')
              from public.agent_tasks t where t.task_id = tail.task_id);
  end if;
  update public.agent_tasks t set conversation = number, turbo_rev = t.turbo_rev + 1 where t.task_id = task;
  placed := true;
  if follow.status = 'pending' then queues := queues || follow.queue; end if;
  if root.status = 'pending' then queues := queues || root.queue; end if;
end $$;

-- Whether a follow-up has left the line before its turn: a person closed it, or let it run at once. Who comes after it waits for the
-- one before it.
create or replace function public.turbo_left_the_line(task public.turbo_task_id) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return coalesce((select t.continues is not null and t.fencing_token is null
                          and (t.status::text in ('completed', 'failed')
                               or t.status::text in ('pending', 'scheduled')
                                  and (select d.settled from public.agent_conversations c
                                         join public.agent_dependencies d on d.task_id = c.task_id and d.needs = c.after
                                        where c.task_id = task) is false)
                     from public.agent_tasks t where t.task_id = task), false);
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
  if many < most then last := null; end if;
end $$;
revoke all on function
  public.turbo_unsettled(), public.turbo_older_queues(), public.turbo_last_status(public.turbo_task_id),
  public.turbo_had_run(public.turbo_task_id), public.turbo_needs_failed(public.turbo_task_id), public.turbo_place(public.turbo_task_id, public.turbo_task_id, text[]), public.turbo_left_the_line(public.turbo_task_id),
  public.turbo_close_ranks(public.turbo_task_id),
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
                      public.turbo_unsettled(), public.turbo_older_queues(), public.turbo_last_status(public.turbo_task_id),
                      public.turbo_had_run(public.turbo_task_id), public.turbo_needs_failed(public.turbo_task_id), public.turbo_place(public.turbo_task_id, public.turbo_task_id, text[]), public.turbo_left_the_line(public.turbo_task_id),
  public.turbo_close_ranks(public.turbo_task_id),
                      public.turbo_place_follow_ups(bigint, integer) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
