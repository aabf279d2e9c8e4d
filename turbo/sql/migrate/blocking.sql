-- Which sessions block this backend now? Asked on a separate connection while the migration waits. A pid of 0 is a prepared
-- transaction. The text of a blocker's query is left out: it may hold private data.
select b.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''), coalesce(a.state, ''),
       to_char(a.query_start, 'HH24:MI:SS'), extract(epoch from clock_timestamp() - a.xact_start)::int
  from (select distinct unnest(pg_blocking_pids(%(pid)s)) as pid) b
  left join pg_stat_activity a using (pid)
 order by a.xact_start nulls last
