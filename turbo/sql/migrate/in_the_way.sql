-- For whom would CREATE (or DROP: readers) INDEX CONCURRENTLY on this table have to wait now? Whoever used the table in
-- a transaction still open, and whoever holds a snapshot. Asked before a build, because a build that then runs into
-- lock_timeout leaves an INVALID index and has worked for nothing. Transactions younger than a second are most likely
-- over before they matter.
select a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       to_char(a.query_start, 'HH24:MI:SS'), extract(epoch from clock_timestamp() - a.xact_start)::int
  from pg_stat_activity a
 where a.datname = current_database() and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
   and a.xact_start < clock_timestamp() - interval '1 second'
   and (a.backend_xmin is not null
        or exists (select from pg_locks l
                    where l.pid = a.pid and l.granted and l.locktype = 'relation'
                      and l.relation = to_regclass(%(table)s)
                      and (%(readers)s or l.mode not in ('AccessShareLock', 'RowShareLock'))))
 order by a.xact_start
