-- Doctor: the privileges that a worker needs and this role lacks. A grant on columns counts as having the privilege.
select n.relation || ': ' || n.privilege as lacks
  from (values ('agent_tasks', 'select'), ('agent_tasks', 'update'), ('agent_actions', 'insert'),
               ('agent_workers', 'select'), ('agent_workers', 'insert'), ('agent_workers', 'update'),
               ('agent_workers', 'delete'), ('agent_leader', 'insert'), ('agent_leader', 'update'),
               ('agent_progress', 'insert'), ('agent_progress', 'update'), ('agent_progress', 'delete'),
               ('agent_accounts', 'select'), ('agent_accounts', 'insert'), ('agent_accounts', 'update'),
               ('agent_queues', 'select'), ('turbo_key_slots', 'select'), ('turbo_key_slots', 'update'),
                ('turbo_migrations', 'select')) n(relation, privilege)
 where not case when n.privilege = 'delete' then has_table_privilege('public.' || n.relation, n.privilege)
                else has_any_column_privilege('public.' || n.relation, n.privilege) end
union all
select 'turbo_fence_seq: usage' where not has_sequence_privilege('public.turbo_fence_seq', 'usage')
union all
select f.name || ': execute'
  from (values ('public.turbo_take_key(text)'), ('public.turbo_stopped_status(text, timestamptz)'),
               ('public.turbo_database_id()')) f(name)
 where not has_function_privilege(to_regprocedure(f.name), 'execute')
