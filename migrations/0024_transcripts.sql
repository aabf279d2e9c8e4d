-- turbo: compatible-from 3
-- Transcripts: what the agents of a run said and did, written while it goes on. A worker inserts a batch about once a second
-- (turbo/sql/transcripts/write.sql); nothing waits for it, and it locks no task. Rows are never changed. Secrets are taken out before
-- a line leaves the worker (docs/how-to/transcripts.md).

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_transcripts') is not null
     and coalesce(obj_description(to_regclass('public.agent_transcripts'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_transcripts already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_transcripts RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_transcripts (
  task_id       public.turbo_task_id not null,
  fencing_token bigint not null,                 -- of the claim: a run is (task_id, fencing_token)
  batch         integer not null,                -- 0, 1, 2, ... of the run
  at            timestamptz not null default clock_timestamp(),
  session_id    text,                            -- the agent's session, as far as it was known
  kind          text not null check (kind in ('event', 'session')),
  path          text not null default '',        -- of a session's file, below the directory of the session; of an event '', and 'turbo'
                                                 -- for what turbo itself has to say
  lines         text not null,                   -- whole lines, each with its newline
  sha256        bytea not null,                  -- of all lines of this run and path, up to the last one here, as they are stored
  primary key (task_id, fencing_token, batch)
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05,
        toast.autovacuum_vacuum_scale_factor = 0.05);
comment on table public.agent_transcripts is 'what the agents of each run said and did, in batches; see turbo logs (turbo)';
comment on column public.agent_transcripts.kind is
  'session: rows of the agent''s own session file; event: lines that this file does not have. The last batch of a run has the path turbo and the line {"type": "turbo_end", "complete": true}';
create index if not exists agent_transcripts_session on public.agent_transcripts (session_id, fencing_token) where session_id is not null;
create index if not exists agent_transcripts_at on public.agent_transcripts (at);

-- lz4 reads and writes several times faster than pglz. A server may be built without it.
do $$
begin
  alter table public.agent_transcripts alter column lines set compression lz4;
exception when feature_not_supported or invalid_parameter_value then null;
end $$;

-- The transcript of a task goes with it, and follows it to another id.
create or replace function public.turbo_forget_transcripts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.agent_transcripts;
  elsif exists (select from public.agent_transcripts) then
    delete from public.agent_transcripts r where r.task_id = any (array(select g.task_id from gone g));
  end if;
  return null;
end $$;
revoke all on function public.turbo_forget_transcripts() from public;
create or replace trigger turbo_forget_transcripts_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_forget_transcripts();
create or replace trigger turbo_forget_transcripts_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_forget_transcripts();

create or replace function public.turbo_move_transcripts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if new.task_id is distinct from old.task_id then
    update public.agent_transcripts r set task_id = new.task_id where r.task_id = old.task_id;
  end if;
  return null;
end $$;
revoke all on function public.turbo_move_transcripts() from public;
create or replace trigger turbo_move_transcripts after update of task_id on public.agent_tasks
  for each row execute function public.turbo_move_transcripts();

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
    execute format('grant select, insert (task_id, fencing_token, batch, session_id, kind, path, lines, sha256)
                      on public.agent_transcripts to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    if has_table_privilege(case worker.grantee when 'PUBLIC' then 'public' else worker.grantee end::name, 'public.agent_tasks', 'DELETE') then
      execute format('grant delete on public.agent_transcripts to %1$s',      -- retention's
                     case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    end if;
  end loop;
end $$;
