-- turbo: compatible-from 3
-- What runs used: tokens and US dollars, by executor, account and model. A row is written in the transaction of its run's result
-- (turbo/sql/tasks/usage.sql) and is never changed. It has no text of the task, and outlives it: nothing is deleted with the task.

-- A table of this name that is there already is the deployment's own, and means something else: nothing is changed then.
do $$
begin
  if to_regclass('public.agent_usage') is not null
     and coalesce(obj_description(to_regclass('public.agent_usage'), 'pg_class'), '') not like '%(turbo)' then
    raise exception 'there is a table agent_usage already, and turbo needs one of this name for itself'
      using errcode = 'duplicate_table',
      hint = 'Rename it (ALTER TABLE public.agent_usage RENAME TO ...) and run turbo migrate again.';
  end if;
end $$;

-- task_id is text, whatever the type of agent_tasks.task_id is: the task may be gone, and another one may have its id.
create table if not exists public.agent_usage (
  task_id            text not null,
  fencing_token      bigint not null,          -- of the claim: a run is (task_id, fencing_token)
  executor           text not null,            -- that used it; a task's reviewer has rows of its own
  account            text not null default '',
  model              text not null default '', -- '': the agent named none
  attempt            integer not null,
  at                 timestamptz not null default clock_timestamp(),  -- when it was recorded
  queue              text not null,
  task_type          text not null,
  submitted_by       text,                     -- null: the row of the task was gone
  input_tokens       bigint not null default 0,  -- without what was read from a cache
  output_tokens      bigint not null default 0,
  cache_read_tokens  bigint not null default 0,
  cache_write_tokens bigint not null default 0,
  cost_usd           numeric,                  -- null: the agent reported no cost, and worker.yaml has no price
  counted            boolean not null default false,
  primary key (task_id, fencing_token, executor, account, model),
  -- No run can have used more, and none less than nothing (turbo.domain.usage keeps to it). Sums of such rows fit their types.
  check (least(input_tokens, output_tokens, cache_read_tokens, cache_write_tokens) >= 0
         and greatest(input_tokens, output_tokens, cache_read_tokens, cache_write_tokens) <= 1000000000000),
  check (cost_usd between 0 and 1000000)
) with (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);
comment on table public.agent_usage is 'what each run used, by executor, account and model; see turbo costs (turbo)';
create index if not exists agent_usage_at on public.agent_usage (at);

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
    execute format('grant insert (task_id, fencing_token, executor, account, model, attempt, queue, task_type, submitted_by, input_tokens,
                                  output_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
                      on public.agent_usage to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    if has_table_privilege(case worker.grantee when 'PUBLIC' then 'public' else worker.grantee end::name, 'public.agent_tasks', 'DELETE') then
      execute format('grant select (at, ctid), delete on public.agent_usage to %1$s',      -- retention's
                     case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
    end if;
  end loop;
end $$;
