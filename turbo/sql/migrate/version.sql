-- The schema version: the newest file applied. Called by every worker's start and by --check; the table exists.
select coalesce(max(version), 0) from public.turbo_migrations
