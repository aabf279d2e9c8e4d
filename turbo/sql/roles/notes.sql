-- What else decides who may do what with turbo's tables in this database, beside turbo's five roles. One note per row.
select format('PUBLIC may %s on %s, and so may every role that can connect (revoke all on %s from public)',
              string_agg(distinct x.privilege_type, ', '), c.oid::regclass, c.oid::regclass)
  from pg_catalog.pg_class c
 cross join lateral (select p.privilege_type from pg_catalog.aclexplode(c.relacl) p where p.grantee = 0
                     union all
                     select p.privilege_type from pg_catalog.pg_attribute a
                      cross join lateral pg_catalog.aclexplode(a.attacl) p where a.attrelid = c.oid and p.grantee = 0) x
 where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'S')
   and c.relname ~ '^(agent_(tasks|actions|workers|leader|queues|accounts|progress)|turbo_(meta|migrations|fence_seq))$'
 group by c.oid
union all
select format('row level security is on for %s: the roles see and change only what its policies allow', c.oid::regclass)
  from pg_catalog.pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relrowsecurity and c.relname ~ '^agent_(tasks|actions)$'
union all
select 'PUBLIC may CREATE in schema public (the default before PostgreSQL 15): revoke create on schema public from public'
  from pg_catalog.pg_namespace n
 cross join lateral pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) p
 where n.nspname = 'public' and p.grantee = 0 and p.privilege_type = 'CREATE'
union all
select format('%s is a superuser: grants do not limit it (alter role %s nosuperuser)', rolname, rolname)
  from pg_catalog.pg_roles
 where rolname in ('turbo_submitter', 'turbo_worker', 'turbo_reader', 'turbo_approver', 'turbo_admin') and rolsuper
