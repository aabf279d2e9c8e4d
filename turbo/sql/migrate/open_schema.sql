-- May PUBLIC create in schema public (the default before PostgreSQL 15)? Asked by `turbo migrate` and `turbo doctor`.
select coalesce(bool_or(p.grantee = 0 and p.privilege_type = 'CREATE'), false)
  from pg_namespace n
 cross join lateral aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) p
 where n.nspname = 'public'
