-- Doctor: the transaction that has held back vacuum longest in this database, if for more than `seconds`.
-- Every claim then steps over the dead versions of rows that were claimed before. A prepared transaction has no pid.
-- The query's text is left out: it may hold private data.
select x.pid, x.who, x.application, x.state, x.seconds
  from (select a.pid, a.usename::text as who, a.application_name as application, a.state,
               extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
          from pg_stat_activity a
         where a.datname = current_database() and a.pid <> pg_backend_pid()
           and (a.backend_xmin is not null or a.backend_xid is not null)
           and a.backend_type = 'client backend'
        union all
        select null, p.owner::text, p.gid, 'prepared', extract(epoch from clock_timestamp() - p.prepared)::float8
          from pg_prepared_xacts p
         where p.database = current_database()) x
 where x.seconds > %(seconds)s::float8
 order by x.seconds desc
 limit 1
