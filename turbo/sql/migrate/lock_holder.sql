-- Which session holds the migration lock? Asked by the session that waits for it.
select a.pid, a.usename, a.application_name, host(a.client_addr),
       extract(epoch from clock_timestamp() - a.backend_start)::int
  from pg_locks l
  join pg_stat_activity a using (pid)
 where l.locktype = 'advisory' and l.granted and l.objsubid = 1
   and l.database = (select oid from pg_database where datname = current_database())
   and (l.classid::bigint << 32) | l.objid::bigint = %(key)s
