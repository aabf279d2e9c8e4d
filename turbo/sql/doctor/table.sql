-- Doctor: what kind of table agent_tasks is. No row if it does not exist.
select c.relkind::text as kind, c.relpersistence = 'u' as unlogged, c.relispartition as partition,
       exists (select from pg_inherits i where i.inhparent = c.oid) as has_children,
       row_security_active(c.oid) as row_security
  from pg_class c
 where c.oid = to_regclass('public.agent_tasks')
