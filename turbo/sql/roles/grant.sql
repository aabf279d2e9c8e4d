-- turbo migrate --roles, second half, in one transaction: each role gets exactly the privileges listed here, and loses
-- any other on turbo's tables. Running it again changes nothing. docs/security.md explains it; a test compares both with
-- what a member of each role can really do.
-- Nothing is granted to PUBLIC or with grant option, and no default privileges are set: a later table is closed to all
-- five roles until it is listed here.

revoke all on table
  public.agent_tasks, public.agent_actions, public.agent_workers, public.agent_leader, public.agent_queues,
  public.agent_accounts, public.agent_progress, public.agent_dependencies, public.agent_blocked, public.agent_unsettled,
  public.agent_conversations, public.agent_messages, public.agent_schedules, public.turbo_key_slots, public.turbo_meta, public.turbo_migrations
  from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_account_windows from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_limits from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_subscriptions, public.agent_events from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_files from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_waiters, public.turbo_quiet from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_transcripts from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on table public.agent_usage from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on sequence public.turbo_wait_seq, public.turbo_quiet_seq, public.turbo_unsent_seq from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
revoke all on sequence public.turbo_fence_seq from turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;

-- PUBLIC may use schema public unless that was revoked; only the schema's owner can grant it again.
do $$
begin
  if not (select bool_and(has_schema_privilege(r, 'public', 'usage'))
            from unnest(array['turbo_submitter', 'turbo_worker', 'turbo_reader', 'turbo_approver', 'turbo_admin']) r) then
    grant usage on schema public to turbo_submitter, turbo_worker, turbo_reader, turbo_approver, turbo_admin;
  end if;
end $$;

-- turbo_submitter adds tasks and follows them. It changes none: a role that may cancel one task may cancel all of them. It goes
-- on with its own tasks only (continues): submitted_by is whose they are, and nobody may write it.
grant select on table public.agent_tasks, public.agent_actions, public.agent_progress, public.agent_queues,
  public.agent_dependencies, public.agent_blocked, public.agent_unsettled, public.agent_conversations, public.agent_messages
  to turbo_submitter;
grant insert (task_id, task_type, task_description, task_priority, input_data, status, timeout_seconds, max_retries,
              retry_count, created_at, queue, run_after, idempotency_key, concurrency_key, needs, on_needs_failed,
              parent_task_id, continues, requires, traceparent)
  on public.agent_tasks to turbo_submitter;
grant insert (task_id, body) on public.agent_messages to turbo_submitter;      -- to its own tasks: turbo_judge_message
-- is my queue served, and where is my task's log?
grant select (worker_id, name, host, state, queues, slots, busy, heartbeat_at, lease_seconds)
  on public.agent_workers to turbo_submitter;

-- turbo_worker gets what the statements of turbo/sql/ use when a worker runs them.
grant select (task_id, task_type, task_description, task_priority, input_data, status, output_data, error_message,
              assigned_worker_id, timeout_seconds, max_retries, retry_count, created_at, started_at, completed_at, queue,
              run_after, fencing_token, concurrency_key, agent_session_id, failure_kind, cancel_requested_at, cancel_to,
              infra_count, turbo_rev, question, answer, prefer_host, needs, on_needs_failed, continues, needed,
              conversation, submitted_by, requires, key_slot, traceparent, ctid)
  on public.agent_tasks to turbo_worker;
grant update (status, output_data, error_message, execution_time_ms, assigned_worker_id, retry_count, started_at,
              completed_at, run_after, fencing_token, agent_session_id, failure_kind, cancel_requested_at, cancel_to,
              infra_count, turbo_rev, question, answer, prefer_host, needed, conversation,
              key_slot)
  on public.agent_tasks to turbo_worker;
grant delete on table public.agent_tasks, public.agent_actions to turbo_worker;      -- retention, if configured
grant select on table public.agent_actions to turbo_worker;
grant insert (task_id, action_type, success, actor, from_status, to_status, fencing_token, execution_time_ms, detail)
  on public.agent_actions to turbo_worker;
grant select, insert, update, delete on table public.agent_workers, public.agent_leader, public.agent_progress,
  public.agent_dependencies, public.agent_blocked, public.agent_unsettled      -- the settler's
  to turbo_worker;
grant select, insert, update on table public.agent_conversations to turbo_worker;
grant select on table public.agent_messages to turbo_worker;
-- The leader forgets what is over; the rest of agent_requirements is written by triggers.
grant select (task_id, queue, requires, ctid), update (requires), delete on table public.agent_requirements to turbo_worker;
grant select, insert (task_id, session, at), update (session, at), delete on table public.agent_portable to turbo_worker;
grant update (delivered_at, fencing_token) on public.agent_messages to turbo_worker;
-- It fires slots by turbo_fire alone, which takes the task from the schedule.
grant select (name, cron, timezone, enabled, catch_up, max_failures, since, next_at, last_at, error, rev)
  on public.agent_schedules to turbo_worker;
grant select on table public.agent_budgets to turbo_worker;          -- it adds to them by turbo_fold alone
grant select on table public.agent_limits to turbo_worker;
grant select, insert, update on table public.agent_accounts, public.agent_account_windows to turbo_worker;
grant select on table public.agent_queues, public.turbo_migrations to turbo_worker;
grant usage on sequence public.turbo_fence_seq to turbo_worker;
grant usage on sequence public.turbo_wait_seq to turbo_worker;         -- whether anybody waits: each result asks
grant insert (task_id, fencing_token, executor, account, model, attempt, queue, task_type, submitted_by, input_tokens,
              output_tokens, cache_read_tokens, cache_write_tokens, cost_usd)
  on public.agent_usage to turbo_worker;                                -- nobody else writes it, and nobody changes it
grant select (at, ctid), delete on table public.agent_usage to turbo_worker;     -- retention, if configured
grant select, delete on table public.agent_events to turbo_worker;               -- it delivers them; retention, if configured
-- Of a subscription: who delivers it, and how far it is; what is delivered to whom is the operator's.
grant select, update (position, looked_at, waiting_since, holder, held_until, delivered, delivered_at, failures, error, next_at)
  on public.agent_subscriptions to turbo_worker;
grant select, insert (task_id, fencing_token, batch, session_id, kind, path, lines, sha256)
  on public.agent_transcripts to turbo_worker;                          -- nobody else writes it, and nobody changes it
grant select, insert (task_id, fencing_token, path, bytes, sha256) on public.agent_files to turbo_worker;      -- the same
grant delete on table public.agent_transcripts to turbo_worker;         -- retention
grant select, update on table public.turbo_key_slots to turbo_worker;  -- whoever may, can keep a concurrency_key from running
-- Every role may call the first five, unless the default privileges of their owner say otherwise.
do $$
declare
  called record;
begin
  for called in
    select f.name, r.role
      from (values ('public.turbo_take_key(text)'), ('public.turbo_take_conversation(bigint)'),
                   ('public.turbo_stopped_status(text, timestamptz)'),
                   ('public.turbo_database_id()'), ('public.turbo_same_task(double precision, double precision)'),
                   ('public.turbo_left_over(text)'), ('public.turbo_tasks_left_over(integer)'),
                   ('public.turbo_messages_left_over()'), ('public.turbo_unsettled()'), ('public.turbo_older_queues()'),
                   ('public.turbo_last_status(public.turbo_task_id)'), ('public.turbo_had_run(public.turbo_task_id)'),
                   ('public.turbo_needs_failed(public.turbo_task_id)'),
                   ('public.turbo_place(public.turbo_task_id, public.turbo_task_id, text[])'),
                   ('public.turbo_place_follow_ups(bigint, integer)'), ('public.turbo_left_the_line(public.turbo_task_id)'),
                   ('public.turbo_close_ranks(public.turbo_task_id)'), ('public.turbo_wake(text)'),
                   ('public.turbo_passed_by(public.turbo_task_id)'),
                   ('public.turbo_may_go_on(public.turbo_task_id, public.turbo_task_id)'), ('public.turbo_last_in_line(bigint, bigint)'), ('public.turbo_host_of(public.turbo_task_id)'),
                   ('public.turbo_host_before(public.turbo_task_id)'), ('public.turbo_directory_of(public.turbo_task_id)'),
                   ('public.turbo_mark_gone(public.turbo_task_id, public.turbo_task_id, boolean)'),
                   ('public.turbo_count_anew(public.turbo_task_id[])'),
                   ('public.turbo_bury(bigint, public.turbo_task_id, boolean, integer)'),
                   ('public.turbo_reopen(public.turbo_task_id, integer)'),
                   ('public.turbo_take_special_notes(bigint, integer, text[])'),
                   ('public.turbo_budgets(timestamptz, interval, text[])'), ('public.turbo_fold(timestamptz)'),
                   ('public.turbo_wake_waiters(text)'), ('public.turbo_keys_with_room()'),
                   ('public.turbo_places(public.turbo_task_id[], text[])'),
                   ('public.turbo_is_spent(text, text, jsonb)'), ('public.turbo_is_portable(public.turbo_task_id, text)'),
                   ('public.turbo_may_run(public.turbo_task_id, jsonb, text, text, timestamptz, text)'),
                   ('public.turbo_stay_in(text[], text, double precision)'), ('public.turbo_unplaceable(integer)'),
                   ('public.turbo_trail_head()'), ('public.turbo_undelivered()'),
                   ('public.turbo_fire(jsonb, text, timestamptz)'), ('public.turbo_judge_slots()'),
                   ('public.turbo_run_schedule(text)'), ('public.turbo_wait(text, text)'),
                   ('public.turbo_tell_who_waits(text, text)'),
                   ('public.turbo_keep_quiet(text, text, double precision, bigint)')) f(name)
      cross join (values ('turbo_worker'), ('turbo_submitter'), ('turbo_reader'), ('turbo_approver'),
                        ('turbo_admin')) r(role)
     where (case f.name when 'public.turbo_database_id()' then true
                        when 'public.turbo_is_portable(public.turbo_task_id, text)' then true
                        when 'public.turbo_unplaceable(integer)' then true
                        when 'public.turbo_wait(text, text)' then true
                        when 'public.turbo_run_schedule(text)' then r.role = 'turbo_admin' else r.role = 'turbo_worker' end)
       and not has_function_privilege(r.role, to_regprocedure(f.name), 'execute')
  loop
    execute format('grant execute on function %s to %I', called.name, called.role);
  end loop;
end $$;

-- turbo_reader and turbo_admin read everything, prompts and results included.
grant select on table
  public.agent_tasks, public.agent_actions, public.agent_workers, public.agent_leader, public.agent_queues,
  public.agent_accounts, public.agent_progress, public.agent_dependencies, public.agent_blocked, public.agent_unsettled,
  public.agent_conversations, public.agent_messages, public.agent_schedules, public.turbo_meta, public.turbo_migrations
  to turbo_reader, turbo_admin;

grant select on table public.agent_usage, public.agent_account_windows, public.agent_budgets, public.agent_limits, public.agent_events,
  public.agent_requirements, public.agent_portable, public.agent_subscriptions
  to turbo_reader, turbo_admin;
grant select on table public.agent_files to turbo_reader, turbo_approver, turbo_admin;
grant select on table public.agent_transcripts to turbo_reader, turbo_approver, turbo_admin;

-- turbo_approver answers questions, approves calls and releases holds. A trigger takes an answer only for a row that waits.
grant select on table public.agent_tasks, public.agent_actions to turbo_approver;
grant update (answer) on public.agent_tasks to turbo_approver;

-- turbo_admin submits, edits by hand, answers, cancels, retries, deletes and pauses. It may not write what a claim relies on: token,
-- revision, requested status, worker. Nor may it write the audit trail, or TRUNCATE: no row trigger could protect a running
-- task from that.
grant insert (task_id, task_type, task_description, task_priority, input_data, status, timeout_seconds, max_retries,
              retry_count, created_at, queue, run_after, idempotency_key, concurrency_key, needs, on_needs_failed,
              parent_task_id, continues, requires, traceparent)
  on public.agent_tasks to turbo_admin;
grant update (task_type, task_description, task_priority, input_data, status, output_data, error_message, timeout_seconds,
              max_retries, retry_count, completed_at, queue, run_after, idempotency_key, concurrency_key, agent_session_id,
              answer, prefer_host, needs, parent_task_id, requires)
  on public.agent_tasks to turbo_admin;
grant delete on table public.agent_tasks to turbo_admin;
grant insert (task_id, body) on public.agent_messages to turbo_admin;
grant insert, update, delete on table public.agent_queues, public.agent_accounts to turbo_admin;
-- Of a schedule: what it does and when; created_by, slots, failures and error are turbo's.
grant insert (name, cron, timezone, enabled, overlap, catch_up, jitter_seconds, max_failures, task_type, task_description,
              task_priority, input_data, queue, timeout_seconds, max_retries, concurrency_key)
  on public.agent_schedules to turbo_admin;
grant update (cron, timezone, enabled, overlap, catch_up, jitter_seconds, max_failures, task_type, task_description,
              task_priority, input_data, queue, timeout_seconds, max_retries, concurrency_key)
  on public.agent_schedules to turbo_admin;
grant delete on table public.agent_schedules to turbo_admin;
-- Of a budget: what it covers and how much; what is spent is turbo's.
grant insert (name, account, queue, task_type, submitted_by, period, timezone, usd, tokens, runs, warn_at)
  on public.agent_budgets to turbo_admin;
grant update (account, queue, task_type, submitted_by, period, timezone, usd, tokens, runs, warn_at)
  on public.agent_budgets to turbo_admin;
grant delete on table public.agent_budgets to turbo_admin;
grant insert, update, delete on table public.agent_limits to turbo_admin;
grant insert (name, events, queue, task_type, target, enabled), update (events, queue, task_type, target, enabled), delete
  on public.agent_subscriptions to turbo_admin;

-- An adopted table has further columns, which submitters and people could always set. Its key may come from a sequence (a
-- serial column), which the inserting role must be allowed to use; an identity column needs no grant.
do $$
declare
  turbo_columns constant text[] := array[
    'task_id', 'task_type', 'task_description', 'task_priority', 'input_data', 'status', 'output_data', 'error_message',
    'execution_time_ms', 'assigned_worker_id', 'timeout_seconds', 'max_retries', 'retry_count', 'created_at', 'started_at',
    'completed_at', 'queue', 'run_after', 'fencing_token', 'idempotency_key', 'concurrency_key', 'agent_session_id',
    'failure_kind', 'cancel_requested_at', 'cancel_to', 'infra_count', 'turbo_rev', 'question', 'answer', 'prefer_host',
    'needs', 'on_needs_failed', 'parent_task_id', 'continues', 'needed', 'conversation', 'submitted_by', 'requires', 'key_slot', 'traceparent'];
  other_columns text;
  used record;
begin
  select string_agg(quote_ident(attname), ', ' order by attnum) into other_columns
    from pg_catalog.pg_attribute
   where attrelid = 'public.agent_tasks'::regclass and attnum > 0 and not attisdropped and attgenerated = ''
     and attname <> all (turbo_columns)
     and coalesce(col_description(attrelid, attnum), '') not like '%(turbo)';    -- nobody's until it is listed
  if other_columns is not null then
    execute format('grant insert (%s) on public.agent_tasks to turbo_submitter, turbo_admin', other_columns);
    execute format('grant update (%s) on public.agent_tasks to turbo_admin', other_columns);
  end if;
  for used in
    select distinct d.refobjid::regclass as sequence, a.adrelid = 'public.agent_tasks'::regclass as of_tasks
      from pg_catalog.pg_attrdef a
      join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_attrdef'::regclass and d.objid = a.oid
                                 and d.refclassid = 'pg_catalog.pg_class'::regclass
      join pg_catalog.pg_class s on s.oid = d.refobjid and s.relkind = 'S'
     where a.adrelid in ('public.agent_tasks'::regclass, 'public.agent_actions'::regclass)
  loop
    execute format('grant usage on sequence %s to %s', used.sequence,
                   case when used.of_tasks then 'turbo_submitter, turbo_admin' else 'turbo_worker' end);
  end loop;
end $$
