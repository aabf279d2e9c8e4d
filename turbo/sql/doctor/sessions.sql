-- Doctor: how many sessions this role may have, by what limit, and how many are open. -1: no limit. Sessions of every role are
-- counted, whoever may see their queries: what a backend is called is hidden from other roles, its database is not. A superuser is not held to the limits of roles and databases.
select r.rolname::text as role, r.rolsuper as superuser, r.rolconnlimit as of_role, d.datconnlimit as of_database,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true), '0')::int as of_server,
       (select count(*) from pg_stat_activity a where a.usesysid = r.oid) as by_role,
       (select count(*) from pg_stat_activity a where a.datid = d.oid) as in_database,
       (select count(*) from pg_stat_activity a where a.datid is not null) as on_server
  from pg_roles r, pg_database d
 where r.rolname = current_user and d.datname = current_database()
