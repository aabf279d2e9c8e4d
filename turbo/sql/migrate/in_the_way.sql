-- Which sessions would CREATE (or DROP: readers) INDEX CONCURRENTLY on this table wait for now? Those with an open
-- transaction that has used the table, and those that hold a snapshot.
-- Asked before a build: one that runs into lock_timeout leaves an INVALID index and has worked in vain.
-- Transactions younger than a second are left out, since most end before they matter.
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
