-- Who owns turbo_migrations: the role that migrated this database first.
select pg_get_userbyid(c.relowner)::text from pg_class c where c.oid = to_regclass('public.turbo_migrations')
