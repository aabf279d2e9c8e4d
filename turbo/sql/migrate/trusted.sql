-- The roles whose objects turbo may use: superusers, this session's role and the roles that it was made a member of, the owner
-- of the database, and the owner of agent_tasks and agent_actions, which may be older than turbo. Not the latter where PUBLIC
-- may create in schema public: there, anybody can have made the table.
-- A superuser counts as a member only of the roles that it was granted: it has the rights of all.
with recursive trusted(oid) as (
  select r.oid from pg_roles r where r.rolsuper or r.rolname in (current_user, 'pg_database_owner')
  union
  select d.datdba from pg_database d where d.datname = current_database()
  union
  select c.relowner from pg_class c
   where c.oid in (to_regclass('public.agent_tasks'), to_regclass('public.agent_actions'))
     and not exists (select from pg_namespace n cross join lateral aclexplode(n.nspacl) p
                      where n.oid = c.relnamespace and p.grantee = 0 and p.privilege_type = 'CREATE')
  union
  select m.roleid from pg_auth_members m join trusted t on t.oid = m.member
   where m.member = (select r.oid from pg_roles r where r.rolname = current_user)
      or not exists (select from pg_roles r where r.oid = m.member and r.rolsuper)
)
select array(select pg_get_userbyid(t.oid)::text from trusted t) as trusted
