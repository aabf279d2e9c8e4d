-- Adoption: what kind of relation this is, who owns it and how big it is. May wait for a lock on the table.
-- rows: the planner's estimate, -1 if the table was never analysed. may: this session is the owner, or a member of it.
select c.oid, c.relkind::text,
       coalesce((select sum(pg_relation_size(p.relid)) from pg_partition_tree(c.oid) p), pg_relation_size(c.oid))::bigint as bytes,
       c.reltuples::bigint as rows,
       pg_get_userbyid(c.relowner)::text as owner, pg_has_role(c.relowner, 'usage') as may, coalesce(c.reloptions, '{}') as options,
       c.relrowsecurity, c.relispartition,
       exists (select from pg_inherits h where h.inhparent = c.oid) and c.relkind <> 'p' as has_children,
       exists (select from pg_inherits h where h.inhrelid = c.oid) as has_parents
  from pg_class c
 where c.oid = to_regclass(%(table)s)
