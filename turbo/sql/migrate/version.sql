-- The schema version: the newest migration applied. Called by every worker at start and by --check; the table exists.
select coalesce(max(version), 0) from public.turbo_migrations
