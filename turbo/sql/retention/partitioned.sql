-- Retention: is the audit trail partitioned? Its pages then belong to several tables, and a ctid alone identifies no row.
select c.relkind = 'p' from pg_class c where c.oid = 'public.agent_actions'::regclass
