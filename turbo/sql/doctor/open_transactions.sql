-- Doctor: the oldest open transactions of the whole server, as far as this role may see them. Which of them listens, the server
-- tells nobody.
select a.pid, a.usename::text as who, a.datname::text as database, a.state,
       extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds
  from pg_stat_activity a
 where a.xact_start is not null and a.pid <> pg_backend_pid() and a.backend_type = 'client backend'
 order by a.xact_start
 limit 3
