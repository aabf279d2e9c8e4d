-- turbo: compatible-from 3
-- Files of runs: what an executor's `files` names, and each run's diff. The worker that has the run writes them just before its result
-- (turbo/sql/files/write.sql). Rows are never changed.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_files') is not null
     and coalesce(obj_description(to_regclass('public.agent_files'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_files already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_files RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

create table if not exists public.agent_files (
  task_id       public.turbo_task_id not null,
  fencing_token bigint not null,                 -- of the claim: a run is (task_id, fencing_token)
  path          text not null,                   -- below the directory where the agent worked; .turbo/diff.patch is turbo's own
  at            timestamptz not null default clock_timestamp(),
  bytes         bytea not null,
  sha256        bytea not null,
  primary key (task_id, fencing_token, path)
) with (toast.autovacuum_vacuum_scale_factor = 0.05);
comment on table public.agent_files is 'files that the runs of tasks left, and their diffs; see turbo files (turbo)';

-- lz4 reads and writes several times faster than pglz, and gives up early on what is compressed. A server may be built without it.
do $$
begin
  alter table public.agent_files alter column bytes set compression lz4;
exception when feature_not_supported or invalid_parameter_value then null;
end $$;

-- The files of a task go with it, and follow it to another id.
create or replace function public.turbo_forget_files() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from public.agent_files;
  elsif exists (select from public.agent_files) then
    delete from public.agent_files r where r.task_id = any (array(select g.task_id from gone g));
  end if;
  return null;
end $$;
revoke all on function public.turbo_forget_files() from public;
create or replace trigger turbo_forget_files_delete after delete on public.agent_tasks
  referencing old table as gone for each statement execute function public.turbo_forget_files();
create or replace trigger turbo_forget_files_truncate after truncate on public.agent_tasks
  for each statement execute function public.turbo_forget_files();

create or replace function public.turbo_move_files() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  if new.task_id is distinct from old.task_id then
    update public.agent_files r set task_id = new.task_id where r.task_id = old.task_id;
  end if;
  return null;
end $$;
revoke all on function public.turbo_move_files() from public;
create or replace trigger turbo_move_files after update of task_id on public.agent_tasks
  for each row execute function public.turbo_move_files();

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
    execute format('grant select, insert (task_id, fencing_token, path, bytes, sha256) on public.agent_files to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;
