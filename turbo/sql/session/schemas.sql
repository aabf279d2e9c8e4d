-- Of these schemas, in the order given, which may a session search while it has turbo's rights? problem: why not, else null.
-- Trusted with them are superusers, this session's own role, and the owners of the database and of turbo's tables, who could
-- replace a trigger anyway. Anybody else who may create in a schema, or has created in it, could put an operator there that
-- fits better than PostgreSQL's own.
with trusted as (
  select r.oid from pg_roles r
   where r.rolsuper or r.rolname in (current_user, 'pg_database_owner')
  union
  select d.datdba from pg_database d where d.datname = current_database()
  union
  select c.relowner from pg_class c where c.oid in (to_regclass('public.agent_tasks'), to_regclass('public.agent_actions'))
)
select n.nspname::text as schema,
       case
         when n.nspowner not in (select oid from trusted) then format('it belongs to %%s', pg_get_userbyid(n.nspowner))
         else coalesce(
           (select format('%%s may create in it', case p.grantee when 0 then 'PUBLIC' else pg_get_userbyid(p.grantee)::text end)
              from aclexplode(n.nspacl) p
             where p.privilege_type = 'CREATE' and p.grantee not in (select oid from trusted) limit 1),
           (select format('it has objects of %%s', pg_get_userbyid(x.owner))
              from (select p.proowner as owner from pg_proc p where p.pronamespace = n.oid
                    union select o.oprowner from pg_operator o where o.oprnamespace = n.oid
                    union select t.typowner from pg_type t where t.typnamespace = n.oid
                    union select c.relowner from pg_class c where c.relnamespace = n.oid) x
             where x.owner not in (select oid from trusted) limit 1))
       end as problem
  from unnest(%(schemas)s::text[]) with ordinality as s(name, n)
  join pg_namespace n on n.nspname = s.name
 where n.nspname !~ '^pg_'
 order by s.n
