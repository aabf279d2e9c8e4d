-- The schema version: the newest migration applied; and the oldest schema whose turbo may still run on it. Called by every
-- worker at start and by --check; the table exists. A file that does not say is followed by the schema right before it:
-- also where the column itself is missing, in a database that an earlier turbo migrated.
select coalesce(max(m.version), 0) as version,
       coalesce(max(coalesce((to_jsonb(m) ->> 'compatible_from')::int, m.version - 1)), 0) as compatible_from
  from public.turbo_migrations m
