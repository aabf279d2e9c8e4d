-- Doctor: the privileges that a worker needs and this role lacks. A grant on columns counts as having the privilege. Rows are deleted
-- by retention alone, which a worker may go without: DELETE is listed only where something else needs it.
select n.relation || ': ' || p.privilege as lacks
  from (values ('agent_tasks', 'select update'), ('agent_actions', 'select insert'),
               ('agent_workers', 'select insert update delete'), ('agent_leader', 'select insert update delete'),
               ('agent_progress', 'select insert update delete'), ('agent_accounts', 'select insert update'),
               ('agent_account_windows', 'select insert update'), ('agent_queues', 'select'),
               ('agent_dependencies', 'select insert update delete'), ('agent_blocked', 'select insert update delete'),
               ('agent_unsettled', 'select insert update delete'), ('agent_conversations', 'select insert update'),
               ('agent_messages', 'select update'), ('agent_schedules', 'select'), ('agent_budgets', 'select'),
               ('agent_requirements', 'select update delete'), ('agent_portable', 'select insert update delete'),
               ('agent_limits', 'select'), ('agent_usage', 'insert'), ('agent_transcripts', 'select insert'), ('agent_files', 'select insert'),
               ('agent_subscriptions', 'select update'),
               ('turbo_key_slots', 'select update'), ('turbo_migrations', 'select'))
       n(relation, privileges)
 cross join lateral string_to_table(n.privileges, ' ') p(privilege)
 where not case when p.privilege = 'delete' then has_table_privilege('public.' || n.relation, p.privilege)
                else has_any_column_privilege('public.' || n.relation, p.privilege) end
union all
select s.name || ': usage' from (values ('turbo_fence_seq'), ('turbo_wait_seq')) s(name)
 where not has_sequence_privilege('public.' || s.name, 'usage')
union all
select f.name || ': execute'
  from (values ('turbo_take_key(text)'), ('turbo_take_conversation(bigint)'),
               ('turbo_stopped_status(text, timestamptz)'), ('turbo_database_id()'),
               ('turbo_same_task(double precision, double precision)'), ('turbo_left_over(text)'),
               ('turbo_tasks_left_over(integer)'), ('turbo_messages_left_over()'), ('turbo_unsettled()'),
               ('turbo_older_queues()'), ('turbo_last_status(public.turbo_task_id)'), ('turbo_had_run(public.turbo_task_id)'),
               ('turbo_needs_failed(public.turbo_task_id)'),
               ('turbo_place(public.turbo_task_id, public.turbo_task_id, text[])'),
               ('turbo_place_follow_ups(bigint, integer)'), ('turbo_left_the_line(public.turbo_task_id)'),
               ('turbo_close_ranks(public.turbo_task_id)'), ('turbo_wake(text)'), ('turbo_passed_by(public.turbo_task_id)'),
               ('turbo_may_go_on(public.turbo_task_id, public.turbo_task_id)'), ('turbo_last_in_line(bigint, bigint)'),
               ('turbo_host_of(public.turbo_task_id)'), ('turbo_host_before(public.turbo_task_id)'),
               ('turbo_directory_of(public.turbo_task_id)'),
               ('turbo_mark_gone(public.turbo_task_id, public.turbo_task_id, boolean)'),
               ('turbo_count_anew(public.turbo_task_id[])'),
               ('turbo_bury(bigint, public.turbo_task_id, boolean, integer)'),
               ('turbo_reopen(public.turbo_task_id, integer)'), ('turbo_take_special_notes(bigint, integer, text[])'),
               ('turbo_budgets(timestamptz, interval, text[])'), ('turbo_fold(timestamptz)'),
               ('turbo_wake_waiters(text)'), ('turbo_keys_with_room()'), ('turbo_places(public.turbo_task_id[], text[])'),
               ('turbo_is_spent(text, text, jsonb)'), ('turbo_is_portable(public.turbo_task_id, text)'),
               ('turbo_may_run(public.turbo_task_id, jsonb, text, text, timestamptz, text)'),
               ('turbo_stay_in(text[], text, double precision)'), ('turbo_unplaceable(integer)'), ('turbo_fire(jsonb, text, timestamptz)'), ('turbo_judge_slots()'),
               ('turbo_trail_head()'), ('turbo_undelivered()'),
               ('turbo_tell_who_waits(text, text)'), ('turbo_wait(text, text)'),
               ('turbo_keep_quiet(text, text, double precision, bigint)')) f(name)
 where not has_function_privilege(to_regprocedure('public.' || f.name), 'execute')
