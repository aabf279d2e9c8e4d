-- Which migrations were applied to this database. Called by every migration, --plan and --check; the table exists.
select version, name, checksum from public.turbo_migrations order by version
