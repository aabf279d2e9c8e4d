-- turbo: compatible-from 3
-- Messages: what a person tells a task while it waits or runs. The insert locks nothing, so neither the row of the task nor its
-- result ever waits for whoever writes a message. A message is delivered to a run (turbo/sql/messages/), refused here, closed by
-- a cancel, or becomes a follow-up of its author, where its task completed before it arrived (turbo_left_over). That one looks for
-- what is visible, and so for every message that was committed.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_messages') is not null
     and coalesce(obj_description(to_regclass('public.agent_messages'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_messages already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_messages RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_messages (
  message_id    bigint generated always as identity primary key,
  task_id       public.turbo_task_id not null,
  body          text not null,
  created_at    timestamptz not null default clock_timestamp(),
  created_by    text not null default session_user,
  delivered_at  timestamptz,           -- when the agent had it, or it was closed; null: it is open
  fencing_token bigint,                -- of the run that was given it; open, it is for the next run if that one does not succeed
  follow_up     text,                  -- the task that it became, because its own was over
  task_born     double precision       -- created_at of the task, in seconds since 1970. Ids come again: one that was committed
                                       -- after its task was deleted is not for the next task of that id
) with (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
comment on table public.agent_messages is
  'what people tell a task: INSERT INTO agent_messages (task_id, body) VALUES (''my_task_1'', ''Not that file'') (turbo)';
create index if not exists agent_messages_open on public.agent_messages (task_id, message_id) where delivered_at is null;
create index if not exists agent_messages_waiting on public.agent_messages (message_id) where delivered_at is null;
create index if not exists agent_messages_task on public.agent_messages (task_id, message_id);

-- Whether a message of this task_born is for the task that was created then. A tool may have cut created_at to milliseconds.
create or replace function public.turbo_same_task(task_born double precision, created double precision) returns boolean
language sql immutable as $$
  select task_born is null or task_born = created or abs(task_born - created) < 0.001
$$;

-- Who may write a message, and to which task. created_by, the moment and turbo's own columns cannot be given. A restore brings
-- rows back as they were: it is the owner's COPY, or has turbo.restore on, and its rows are older than its transaction.
create or replace function public.turbo_judge_message() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  task    record;
  by_whom name := case current_setting('role') when 'none' then session_user else current_setting('role')::name end;
  shown   text := public.turbo_shown(new.task_id::text, 200::integer);
begin
  if new.created_at < transaction_timestamp() and new.created_by is not null
     and (current_query() ~* '^[[:space:]]*copy[[:space:]]' or coalesce(current_setting('turbo.restore', true), '') = 'on')
     and (select pg_has_role(by_whom, c.relowner, 'usage') from pg_class c where c.oid = tg_relid)
  then return new; end if;

  if new.body is null or new.body !~ '[^[:space:]]' then
    raise exception 'the message to task % is empty', shown using errcode = 'check_violation',
      hint = 'Write what the agent is to know: INSERT INTO agent_messages (task_id, body) VALUES (..., ''...'').';
  end if;
  if octet_length(new.body) > 262144 then
    raise exception 'the message to task % has % bytes, more than 262144', shown, octet_length(new.body)
      using errcode = 'check_violation', hint = 'Write a shorter message, or put the rest where the agent can read it.';
  end if;
  select t.status::text as status, t.assigned_worker_id::text as worker, t.submitted_by,
         extract(epoch from t.created_at)::double precision as born
    into task
    from public.agent_tasks t where t.task_id = new.task_id;
  if not found then
    raise exception 'there is no task %', shown using errcode = 'foreign_key_violation', hint = 'Name a task that is there.';
  end if;
  if task.submitted_by is distinct from session_user::text
     and not has_column_privilege(by_whom, 'public.agent_tasks', 'status', 'update') then
    raise exception 'task % is not yours', shown using errcode = 'insufficient_privilege',
      hint = 'A message is for a task that the same database user has submitted; whoever may edit tasks may write to any.';
  end if;
  if task.status in ('completed', 'failed', 'cancelled') then
    raise exception 'task % is over: it is %', shown, task.status using errcode = 'object_not_in_prerequisite_state',
      hint = 'To go on with its conversation: INSERT INTO agent_tasks (continues, task_description) VALUES ('''
             || replace(shown, '''', '''''') || ''', ''...'').';
  end if;
  new.created_by   := session_user;
  new.created_at   := clock_timestamp();
  new.delivered_at := null; new.fencing_token := null; new.follow_up := null;
  new.task_born    := task.born;
  -- The task may run elsewhere, or be over, when this transaction commits: the id is for whoever runs it then.
  if current_setting('turbo.notify', true) is distinct from 'off' and pg_notification_queue_usage() <= 0.5 then
    perform pg_notify('turbo_ctl', 'message ' || coalesce(case when task.status = 'running' then left(task.worker, 255) end, '')
                                   || ' ' || new.task_id::text);
  end if;
  return new;
end $$;
revoke all on function public.turbo_judge_message() from public;
create or replace trigger turbo_judge_message before insert on public.agent_messages
  for each row execute function public.turbo_judge_message();

-- What was said, by whom and to whom stays as it is. A task that gets another id or created_at keeps its messages.
create or replace function public.turbo_keep_message() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if pg_trigger_depth() = 1 and row(new.message_id, new.task_id, new.body, new.created_at, new.created_by, new.task_born)
                                is distinct from row(old.message_id, old.task_id, old.body, old.created_at, old.created_by, old.task_born) then
    raise exception 'a message cannot be changed' using errcode = 'check_violation', hint = 'Write another one.';
  end if;
  return new;
end $$;
revoke all on function public.turbo_keep_message() from public;
create or replace trigger turbo_keep_message before update of message_id, task_id, body, created_at, created_by, task_born
  on public.agent_messages for each row execute function public.turbo_keep_message();

create or replace function public.turbo_move_messages() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if new.task_id is distinct from old.task_id or new.created_at is distinct from old.created_at then
    update public.agent_messages m
       set task_id = new.task_id, task_born = extract(epoch from new.created_at)
     where m.task_id = old.task_id and public.turbo_same_task(m.task_born::double precision, extract(epoch from old.created_at)::double precision);
  end if;
  return null;
end $$;
revoke all on function public.turbo_move_messages() from public;
create or replace trigger turbo_move_messages after update of task_id, created_at on public.agent_tasks
  for each row execute function public.turbo_move_messages();

-- The messages of a task go with it.
create or replace function public.turbo_forget_messages() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.agent_messages;
  elsif exists (select from public.agent_messages) then
    delete from public.agent_messages m where m.task_id = any (array(select g.task_id from gone g));
  end if;
  return null;
end $$;
revoke all on function public.turbo_forget_messages() from public;
create or replace trigger turbo_forget_messages_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_forget_messages();
create or replace trigger turbo_forget_messages_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_forget_messages();

-- The tasks with open messages that no run will take: completed; cancelled, unless by a need, which may yet be retried; and those that
-- are gone, or have another task's first open message, committed after that one was deleted. Messages of a task that failed wait for its
-- retry. One look-up in an index a task with open messages, for at most `most` of them.
create or replace function public.turbo_tasks_left_over(most integer) returns setof public.turbo_task_id
language sql stable set search_path = pg_catalog, pg_temp as $$
  with recursive told(task_id, born, n) as (
    (select m.task_id, m.task_born, 1 from public.agent_messages m where m.delivered_at is null order by m.task_id, m.message_id limit 1)
    union all
    select m.task_id, m.task_born, told.n + 1
      from told cross join lateral (select m.task_id, m.task_born from public.agent_messages m
                                     where m.delivered_at is null and m.task_id > told.task_id
                                     order by m.task_id, m.message_id limit 1) m
     where told.n < most
  )
  select told.task_id from told
   where coalesce((select t.status::text = 'completed' or t.status::text = 'cancelled' and t.failure_kind is distinct from 'needs'
                          or not public.turbo_same_task(told.born::double precision, extract(epoch from t.created_at)::double precision)
                     from public.agent_tasks t where t.task_id = told.task_id), true)
$$;
revoke all on function public.turbo_tasks_left_over(integer) from public;

-- The poll twin of what a message's notification says. Nothing open: one look into an empty index. Else it looks at the tasks that ended
-- last, and at 200 open messages from where the last look ended, whoever looked: those of tasks that wait or run may stay open for long,
-- and are to cost no poll more than that. Where it finds one, the next look finds it, too.
create sequence if not exists public.turbo_look_seq minvalue 0 owned by public.agent_messages.task_id;
create or replace function public.turbo_messages_left_over() returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  begun bigint;
  last  bigint;
  many  bigint;
  found boolean;
begin
  if not exists (select from public.agent_messages m where m.delivered_at is null) then return false; end if;
  if exists (select from (select t.task_id, t.status::text as status, t.failure_kind from public.agent_tasks t
                           where t.status in ('completed', 'failed', 'cancelled')
                             and t.completed_at <= clock_timestamp() + interval '1 day'
                           order by t.completed_at desc limit 100) t
              where (t.status = 'completed' or t.status = 'cancelled' and t.failure_kind is distinct from 'needs')
                and (select true from public.agent_messages m where m.task_id = t.task_id and m.delivered_at is null limit 1)) then
    return true;
  end if;
  select s.last_value into begun from public.turbo_look_seq s;
  select max(m.message_id), count(*),
         coalesce(bool_or((select t.status::text = 'completed' or t.status::text = 'cancelled' and t.failure_kind is distinct from 'needs'
                                  or not public.turbo_same_task(m.task_born::double precision, extract(epoch from t.created_at)::double precision)
                             from public.agent_tasks t where t.task_id = m.task_id) is distinct from false), false)
    into last, many, found
    from (select m.message_id, m.task_id, m.task_born from public.agent_messages m
           where m.delivered_at is null and m.message_id > begun order by m.message_id limit 200) m;
  if not found and current_setting('transaction_read_only') = 'off' and (many = 200 or begun > 0) then
    perform setval('public.turbo_look_seq', case when many = 200 then last else 0 end);
  end if;
  return found;
end $$;
revoke all on function public.turbo_messages_left_over() from public;

-- Sees to what is left over, of up to 500 messages of each task. Of a task that completed they become follow-ups of their
-- authors, in order, those of one author together up to a megabyte. Of any other they are closed, with a line in the trail. A
-- message and its follow-up are one transaction. Two sessions at once pass each other's messages. A follow-up that is refused, by a
-- rule of the deployment's own, closes its messages; whatever else goes wrong with a task keeps no other one.
-- moved: messages that were open, and are not any more. follow_ups: tasks inserted. Zero of the first: there is nothing to do.
create or replace function public.turbo_left_over(worker text, out moved bigint, out follow_ups bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  task    record;
  said    record;
  taken   bigint[];
  made    text;
  refused text;
  many    bigint;
  before  record;
  id_type text    := (select format_type(y.typbasetype, -1) from pg_type y where y.oid = 'public.turbo_task_id'::regtype);
  keyed   boolean := exists (select from pg_attribute a
                              where a.attrelid = 'public.agent_tasks'::regclass and a.attname = 'task_id'
                                and (a.atthasdef or a.attidentity <> ''));
begin
  moved := 0; follow_ups := 0;
  for task in
    select o.task_id, t.*
      from public.turbo_tasks_left_over(2147483647::integer) o(task_id)
     cross join lateral (select t.task_id is null as gone, t.status::text as status, t.fencing_token is not null as ran,
                                t.fencing_token as token, extract(epoch from t.created_at)::double precision as born,
                                t.status::text = 'completed' or t.status::text = 'cancelled' and t.failure_kind is distinct from 'needs' as over
                           from (select 1) one left join public.agent_tasks t on t.task_id = o.task_id offset 0) t
  loop
    exit when moved >= 5000;       -- no transaction lasts long; the caller comes again until nothing is moved
    if task.gone then         -- it was deleted before they were committed
      delete from public.agent_messages m
       where m.task_id = task.task_id and m.delivered_at is null
         and (select true from public.agent_tasks t where t.task_id = task.task_id) is null;
      get diagnostics many = row_count;
      moved := moved + many;
      continue;
    end if;
    select moved as m, follow_ups as f into before;
    begin
      -- Of a task that had this id before: they go with it.
      delete from public.agent_messages m
       where m.task_id = task.task_id and m.delivered_at is null and not public.turbo_same_task(m.task_born::double precision, task.born::double precision);
      get diagnostics many = row_count;
      moved := moved + many;
      continue when not task.over;
      -- Its last run was given these: a program has what it is told from its start on.
      update public.agent_messages m set delivered_at = clock_timestamp()
       where m.task_id = task.task_id and m.delivered_at is null
         and m.fencing_token in (task.token, - task.token);      -- negative: its result is recorded
      get diagnostics many = row_count;
      moved := moved + many;
      taken := array(select m.message_id from public.agent_messages m
                      where m.task_id = task.task_id and m.delivered_at is null
                      order by m.message_id limit 500 for update skip locked);
      continue when taken = '{}';
      refused := null;
      if task.status = 'completed' and task.ran then
        for said in
          select array_agg(c.message_id order by c.message_id) as ids, c.created_by as author, max(c.message_id) as last,
                 string_agg(c.body, E'\n\n' order by c.message_id) as text
            from (select m.message_id, m.body, m.created_by,
                         sum(octet_length(m.body)) over (partition by m.created_by order by m.message_id) / 1048576 as part
                    from public.agent_messages m where m.message_id = any (taken)) c
           group by c.created_by, c.part
           order by max(c.message_id)
        loop
          made := null;
          begin
            -- turbo_rev -1: turbo's own insert. An adopted key without a default gets an id of its type, where that can be made up.
            if keyed then
              insert into public.agent_tasks (continues, task_description, idempotency_key, submitted_by, turbo_rev)
              values (task.task_id::text, said.text, 'message ' || said.last, said.author, -1)
              on conflict do nothing
              returning task_id::text into made;
            else
              insert into public.agent_tasks (task_id, continues, task_description, idempotency_key, submitted_by, turbo_rev)
              values (case when id_type = 'uuid' then gen_random_uuid()::text
                           when id_type in ('text', 'character varying', 'character')
                           then 't_' || left(replace(gen_random_uuid()::text, '-', ''), 20) end::public.turbo_task_id,
                      task.task_id::text, said.text, 'message ' || said.last, said.author, -1)
              on conflict do nothing
              returning task_id::text into made;
            end if;
          -- A rule of the deployment's own, whatever it raises, or a key that is too short for the id. Not what passes by itself, as a
          -- full disk or a lock, nor a sequence that has no number left.
          exception when others or assert_failure then
            if sqlstate ~ '^(08|25|40|53|55P03|57|58|XX|2200H)' then raise; end if;
            refused := sqlerrm;
          end;
          if made is not null then
            follow_ups := follow_ups + 1;
          elsif refused is null then
            select t.task_id::text into made from public.agent_tasks t where t.idempotency_key = 'message ' || said.last;
            if made is null then refused := 'a unique index of the deployment''s own'; end if;
          end if;
          continue when made is null;
          update public.agent_messages m set delivered_at = clock_timestamp(), follow_up = made where m.message_id = any (said.ids);
          get diagnostics many = row_count;
          moved := moved + many;
        end loop;
      end if;
      -- What has no follow-up by now gets none.
      with closed as (
        update public.agent_messages m set delivered_at = clock_timestamp()
         where m.message_id = any (taken) and m.delivered_at is null
        returning m.message_id, m.created_by
      ), noted as (
        insert into public.agent_actions (task_id, action_type, success, actor, detail)
        select task.task_id, 'undelivered', false, worker,
               jsonb_strip_nulls(jsonb_build_object(
                 'messages', jsonb_agg(c.message_id order by c.message_id), 'created_by', to_jsonb(array_agg(distinct c.created_by)),
                 'why', case when refused is not null then 'its follow-up was refused: ' || left(refused, 500)
                             when task.status = 'completed' then 'the task was closed, and never ran'
                             else 'the task was cancelled' end))
          from closed c having count(*) > 0
      )
      select count(*) into many from closed;
      moved := moved + many;
    -- What is refused of one task stays as it was, and keeps no other.
    exception when others or assert_failure then
      raise warning 'messages to task % are left as they are: %', public.turbo_shown(task.task_id::text, 200::integer), sqlerrm;
      moved := before.m; follow_ups := before.f;
    end;
  end loop;
end $$;
revoke all on function public.turbo_left_over(text) from public;

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
    execute format('grant select, update (delivered_at, fencing_token) on public.agent_messages to %1$s;
                    grant execute on function public.turbo_left_over(text), public.turbo_tasks_left_over(integer),
                          public.turbo_messages_left_over(), public.turbo_same_task(double precision, double precision) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
