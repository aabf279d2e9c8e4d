-- Which migrations this database has seen. Called by every migration, --plan and --check; the table exists.
select version, name, checksum from public.turbo_migrations order by version
