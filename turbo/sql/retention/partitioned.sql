-- Retention: is the trail partitioned? Its pages are then several tables', and a row's place in them names no row.
select c.relkind = 'p' from pg_class c where c.oid = 'public.agent_actions'::regclass
