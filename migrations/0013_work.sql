-- turbo: no-transaction
-- turbo: compatible-from 3
-- Tasks that depend on other tasks, and tasks that go on with the conversation of another: the columns, tables and indexes.
-- What a row waits for is checked when it is inserted (0014_judge_work.sql). Its release is a transaction of turbo's own
-- (0016_settling.sql, turbo/sql/settle/): no inserter ever locks the row of another task.

-- A column of these names that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
declare
  taken text;
begin
  select string_agg(a.attname, ', ' order by a.attnum) into taken
    from pg_attribute a
   where a.attrelid = 'public.agent_tasks'::regclass and a.attnum > 0 and not a.attisdropped
     and a.attname in ('needs', 'on_needs_failed', 'continues', 'needed', 'conversation', 'submitted_by')
     and coalesce(col_description(a.attrelid, a.attnum), '') not like '%(turbo)';
  if taken is not null then
    raise exception 'agent_tasks has columns that turbo needs for itself: %', taken using errcode = 'duplicate_column',
      hint = 'Rename them (ALTER TABLE public.agent_tasks RENAME COLUMN ...) and run turbo migrate again.';
  end if;
end $$;
-- parent_task_id may be there already, with the same meaning: lineage, for people.
alter table public.agent_tasks
  add column if not exists needs           text[],
  add column if not exists on_needs_failed text,
  add column if not exists parent_task_id  text,
  add column if not exists continues       text,
  add column if not exists needed          boolean,
  add column if not exists conversation    bigint,
  add column if not exists submitted_by    text;
-- After the column: a default in ADD COLUMN would name whoever migrates as the submitter of all history.
alter table public.agent_tasks alter column submitted_by set default session_user;
comment on column public.agent_tasks.needs is
  'the tasks that must be over before this one runs; set on insert, later only to null: it waits for nothing any more (turbo)';
comment on column public.agent_tasks.on_needs_failed is
  'what a need that does not complete does to this task: cancel (null too), run, or wait for its retry (turbo)';
comment on column public.agent_tasks.continues is
  'the task whose conversation and directory this one goes on with (turbo)';
comment on column public.agent_tasks.needed is
  'true: blocked tasks wait for its end; false: it failed, they were told, and wait for its retry; null: nobody waits (turbo)';
comment on column public.agent_tasks.conversation is
  'the number of its conversation in agent_conversations: one of its tasks runs at a time; null: it is alone (turbo)';
comment on column public.agent_tasks.submitted_by is
  'the database user who inserted it; a proof where turbo migrate --roles keeps the column from submitters (turbo)';

-- An edge: task_id waits for needs. mode: how the end of the need counts (on_needs_failed of the dependent; 'run' for the task
-- before it in its conversation). Tied and settled by turbo/sql/settle/; goes with the dependent. gone: the need was deleted, and counts
-- as met, or not; null: it is there. Ids come again: a later task of that id is a stranger, and this edge is none to it.
create table if not exists public.agent_dependencies (
  task_id public.turbo_task_id not null,
  needs   public.turbo_task_id not null,
  mode    text    not null default 'cancel' check (mode in ('cancel', 'run', 'wait')),
  settled boolean not null default false,
  gone    text check (gone in ('met', 'unmet')),
  primary key (task_id, needs)
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
-- Both columns: the look for one edge is one look-up, whichever of the two indexes is taken.
create index if not exists agent_dependencies_needs on public.agent_dependencies (needs, task_id);

-- How many needs a blocked task still waits for. A count: the look for one that is left would cost more the more are settled.
create table if not exists public.agent_blocked (
  task_id     public.turbo_task_id primary key,
  needs_left  integer not null,
  failed_need text,
  since       timestamptz not null default clock_timestamp()
) with (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
create index if not exists agent_blocked_ready on public.agent_blocked (task_id) where needs_left <= 0 or failed_need is not null;

-- Notes to the settler: look at this task. Written by triggers, also for rows that are not inserted after all (a BEFORE trigger
-- cannot know): such a note finds nothing and is dropped. No unique key: nobody ever waits for a note.
-- need: this one of its needs was deleted while somebody had the task locked, or before it was tied; met: that counts as met.
-- retried: it was over, and is not any more; or it was corrected, to completed or from it. A note that names its task as its need: that
-- task was deleted, and not all who need it were told.
create table if not exists public.agent_unsettled (
  note_id bigint generated always as identity primary key,
  task_id public.turbo_task_id not null,
  need    public.turbo_task_id,
  met     boolean,
  retried boolean
) with (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.02);
create index if not exists agent_unsettled_special on public.agent_unsettled (task_id) where need is not null or retried;

-- The members of a conversation in their order, its first task included (place 0). A number names it, not the first task's id:
-- ids are the callers' and come again. first: the id of the first task, whose directory they all work in. directory: what the input
-- of that one said of it (cwd, ref), once it is deleted; in at least one row of those that were there then.
create table if not exists public.agent_conversations (
  task_id      public.turbo_task_id primary key,
  conversation bigint generated by default as identity,
  place        integer not null,
  after        public.turbo_task_id,                   -- the task whose end it waits for; null: none
  first        text not null,
  directory    jsonb,
  unique (conversation, place)
);
-- Who comes after a task that is deleted.
create index if not exists agent_conversations_after on public.agent_conversations (after) where after is not null;
-- Conversations whose first task is deleted: a later task of that id does not work in their directory.
create index if not exists agent_conversations_orphaned on public.agent_conversations (first) where directory is not null;

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
    execute format('grant select (needs, on_needs_failed, continues, needed, conversation, submitted_by),
                          update (needed, conversation) on public.agent_tasks to %1$s;
                    grant select, insert, update, delete on public.agent_dependencies, public.agent_blocked, public.agent_unsettled
                       to %1$s;
                    grant select, insert, update on public.agent_conversations to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
-- turbo: next
-- What rests, by its queue and the moment it is due: scheduled rows, questions by their deadline, blocked rows. And what is over
-- while others wait for it: nothing has to write that down, whatever ended the task. `is true`, and the states one by one: an
-- ordinary insert is past it at the first word, and no index of finished tasks can serve the look for these.
create index concurrently if not exists agent_tasks_at_rest
  on public.agent_tasks (status, queue, run_after)
  where status in ('scheduled', 'waiting', 'blocked')
     or needed is true and status not in ('pending', 'running', 'scheduled', 'waiting', 'blocked');
-- turbo: next
-- One run at a time in a conversation, whatever its tasks are, and whatever a person writes by hand.
create unique index concurrently if not exists agent_tasks_one_running_per_conversation
  on public.agent_tasks (conversation) where conversation is not null and status = 'running';
-- turbo: next
-- After the other is there: it serves an older worker's statements as well.
drop index concurrently if exists public.agent_tasks_resting;
