-- The table of applied migrations. Created under the migration lock, before anything else.
create table if not exists public.turbo_migrations (
  version       integer     primary key,
  name          text        not null,
  checksum      text        not null,
  applied_at    timestamptz not null default clock_timestamp(),
  turbo_version text        not null
)
