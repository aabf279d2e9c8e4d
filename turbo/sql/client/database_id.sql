-- Which database is this? Called by commands that look for a task's files on this host.
select public.turbo_database_id() as database_id
