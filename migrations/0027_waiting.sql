-- turbo: compatible-from 3
-- Programs that wait for tasks, and traces. turbo_wait(task_id) registers one; while it is registered, whatever ends or stops the task sends one
-- notification to it. A worker from before sends none, and a notification can be lost: whoever waits also looks every few seconds.
--
--   register ──▶ LISTEN ──▶ look at the row ──▶ wait for the notification, or for the next look
--
-- A transaction that ends the task may have looked for waiters just before this one was registered, and commit long after. So a waiter
-- that was registered reads pg_current_snapshot(), and looks often until the transactions that are open in it are over
-- (turbo/sql/client/open_transactions.sql). Each later one takes its transaction id, and only then looks for waiters.

-- A table or a column of such a name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_waiters') is not null
     and coalesce(obj_description(to_regclass('public.agent_waiters'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_waiters already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_waiters RENAME TO ...) and run turbo migrate again.';
  end if;
  if exists (select from pg_attribute a
              where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'traceparent' and not a.attisdropped
                and coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)') then
    raise exception 'agent_tasks has columns that turbo needs for itself: traceparent' using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ... TO ...) and run turbo migrate again.';
  end if;
end $$;

-- The trace that a task belongs to. Nothing judges it when it is written: a condition in the trigger would cost every insert, and rows can
-- come past the triggers. Whoever reads it checks its form, and takes any other text for none (turbo/sql/tasks/trace.sql).
alter table public.agent_tasks add column if not exists traceparent text;
comment on column public.agent_tasks.traceparent is
  'the trace of whoever inserted the task, in the form of W3C trace context; any other text counts as none (turbo)';

-- Not logged: after a crash or a failover it is empty, and those who wait have lost their sessions, and register again.
create unlogged table if not exists public.agent_waiters (
  task_id public.turbo_task_id not null,
  channel text not null,                         -- of whoever waits
  lapses  timestamptz not null,
  primary key (task_id, channel)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
comment on table public.agent_waiters is 'who waits for which task, until when; written by turbo_wait (turbo)';
-- Of those who left, for turbo_wait, which removes them.
create index if not exists agent_waiters_lapses on public.agent_waiters (lapses);

-- The gate. Its last value is null while nobody waits for any task; else it is until when somebody does, in seconds since 1970, or a little
-- later. A sequence, because that is one look into a page: a query made a result 5 % dearer. What is written to it is seen at once.
create sequence if not exists public.turbo_wait_seq;
comment on sequence public.turbo_wait_seq is 'until when somebody waits for a task, in seconds since 1970; null: nobody does (turbo)';
revoke all on sequence public.turbo_wait_seq from public;

-- Registers a waiter for 60 seconds, and returns the channel to LISTEN on. Call it again to go on waiting. `channel`: 1 to 32 of a-z 0-9,
-- the caller's own name for it, as to wait for several tasks on one channel; left out, it is a new one. Wait for the commit of this before
-- you look at the task: SELECT public.turbo_wait('my_task_1'), LISTEN, SELECT status, then wait.
create or replace function public.turbo_wait(task_id text, channel text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  own text := 'turbo_done_' || coalesce(channel, left(replace(gen_random_uuid()::text, '-', ''), 24));
  until constant float8 := date_part('epoch', clock_timestamp()) + 60;
begin
  if channel !~ '^[a-z0-9]{1,32}$' then
    raise exception 'channel % is not a name for a channel', public.turbo_shown(channel::text, 60::integer) using errcode = 'check_violation',
      hint = 'Write 1 to 32 of a-z 0-9, or leave it out for a new one.';
  end if;
  if task_id is null or octet_length(task_id) > 2048 then
    raise exception 'task_id is empty, or longer than 2048 bytes' using errcode = 'check_violation', hint = 'Write the id of a task.';
  end if;
  -- Nobody closes the gate before the commit of this: see turbo_tell_who_waits.
  perform pg_try_advisory_xact_lock_shared(1953985653, 0);
  if coalesce(pg_sequence_last_value('public.turbo_wait_seq'), 0) < until then
    perform setval('public.turbo_wait_seq', ceil(until)::bigint + 30);      -- ahead, so that not every call writes it
  end if;
  insert into public.agent_waiters as w (task_id, channel, lapses)
  values (turbo_wait.task_id::public.turbo_task_id, own, to_timestamp(until))
  on conflict on constraint agent_waiters_pkey do update set lapses = excluded.lapses;
  if random() < 0.05 then      -- those who left
    delete from public.agent_waiters w
     where w.ctid = any (array(select l.ctid from public.agent_waiters l
                                where l.lapses < statement_timestamp() - interval '60 seconds' order by l.lapses limit 1000
                                  for update skip locked));
  end if;
  return own;
end $$;
revoke all on function public.turbo_wait(text, text) from public;

-- A task has become `status`: if it has ended, or asks, whoever waits for it is told. A transaction with an old snapshot cannot see who
-- waits, so it tells all of them, on a channel of their own. Whoever finds the gate open after its time closes it: a lock for a moment keeps it
-- from closing on somebody who is just registering. Another session that has the lock for itself keeps it open.
create or replace function public.turbo_tell_who_waits(task_id text, status text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  shown constant text := case when octet_length(task_id) < 7900 then task_id else '' end;
begin
  if status is null or status not in ('completed', 'failed', 'cancelled', 'waiting')
     or pg_sequence_last_value('public.turbo_wait_seq') is null then return; end if;
  if pg_sequence_last_value('public.turbo_wait_seq') < date_part('epoch', clock_timestamp()) then
    if pg_try_advisory_lock(1953985653, 0) then
      if pg_sequence_last_value('public.turbo_wait_seq') < date_part('epoch', clock_timestamp()) then
        perform setval('public.turbo_wait_seq', 1, false);
      end if;
      perform pg_advisory_unlock(1953985653, 0);
    end if;
    return;
  end if;
  if current_setting('turbo.notify', true) = 'off' or pg_notification_queue_usage() > 0.5 then return; end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    perform pg_notify('turbo_done', shown);
    return;
  end if;
  perform pg_notify(w.channel, shown)
     from public.agent_waiters w
    where w.task_id = turbo_tell_who_waits.task_id::public.turbo_task_id and w.lapses > statement_timestamp();
end $$;
revoke all on function public.turbo_tell_who_waits(text, text) from public;

-- turbo: next
-- Whoever deletes, ends or holds a task by hand tells who waits for it. These functions are long, and each change is a line or two, as in
-- 0022_placement.sql: a part of the function that is there takes the place of another. Each part must be found exactly once. What
-- earlier files put there stays as it is, so that each of them can be run again.
do $$
declare
  change   record;
  text_now text;
begin
  for change in
    select * from (values
      -- What retention deletes is over, and they were told.
      (1, 'turbo_note_delete', $a$    return null;
  end if;
  begin
$a$, $b$    return null;
  end if;
  if pg_sequence_last_value('public.turbo_wait_seq') is not null then
    if tg_op <> 'TRUNCATE' then perform public.turbo_tell_who_waits(g.task_id::text, 'cancelled'::text) from gone g;
    elsif current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
      perform pg_notify('turbo_done', '');
    end if;
  end if;
  begin
$b$),
      (2, 'turbo_judge_update', $a$'question', 'answer', 'prefer_host',$a$, $b$'question', 'answer', 'prefer_host', 'traceparent',$b$),
      (3, 'turbo_judge_update', $a$    case when new.submitted_by        is distinct$a$,
       $b$    case when new.traceparent         is distinct from old.traceparent         then 'traceparent' end,
    case when new.submitted_by        is distinct$b$),
      (4, 'turbo_judge_update', $a$|| jsonb_build_object('asked', asked);
    end if;
    return new;$a$, $b$|| jsonb_build_object('asked', asked);
    end if;
    if asked <> was then perform public.turbo_tell_who_waits(old.task_id::text, asked::text); end if;
    return new;$b$),
      (5, 'turbo_judge_update', $a$jsonb_build_object('question', shown) end || coalesce(told, '{}'));
  return new;$a$, $b$jsonb_build_object('question', shown) end || coalesce(told, '{}'));
  if new.status::text <> was then perform public.turbo_tell_who_waits(old.task_id::text, new.status::text); end if;
  return new;$b$),
      (6, 'turbo_take_answer', $a$perform public.turbo_tell_of_messages(old.task_id::text); end if;
  elsif kind = 'hold' then$a$, $b$perform public.turbo_tell_of_messages(old.task_id::text); end if;
    perform public.turbo_tell_who_waits(old.task_id::text, 'cancelled'::text);
  elsif kind = 'hold' then$b$)
    ) c(n, name, was, becomes) order by 1
  loop
    text_now := pg_get_functiondef(('public.' || change.name || '()')::regprocedure);
    if position(change.becomes in text_now) > 0 then continue; end if;                    -- done by an earlier try
    if (length(text_now) - length(replace(text_now, change.was, ''))) <> length(change.was) then
      raise exception 'change % does not fit %()', change.n, change.name using errcode = 'internal_error',
        hint = 'This function is not the one of the migrations before; somebody has changed it.';
    end if;
    execute replace(text_now, change.was, change.becomes);
  end loop;
end $$;
-- turbo: next
-- Whoever may write a claim is a worker: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand. Whoever may read
-- the state of tasks may wait for them.
do $$
declare
  holder record;
begin
  for holder in
    select distinct case p.grantee when 'PUBLIC' then 'public' else quote_ident(p.grantee) end as name, p.privilege_type = 'UPDATE' as claims
      from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks'
       and (p.column_name = 'fencing_token' and p.privilege_type = 'UPDATE' or p.column_name = 'status' and p.privilege_type = 'SELECT')
  loop
    if holder.claims then
      execute format('grant execute on function public.turbo_tell_who_waits(text, text) to %s', holder.name);
      execute format('grant usage on sequence public.turbo_wait_seq to %s', holder.name);
      execute format('grant select (traceparent) on public.agent_tasks to %s', holder.name);
    else
      execute format('grant execute on function public.turbo_wait(text, text) to %s', holder.name);
    end if;
  end loop;
end $$;
