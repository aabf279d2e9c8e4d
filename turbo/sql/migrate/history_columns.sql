-- The columns of turbo_migrations that came after the table. Runs under the migration lock, after history_create.
-- compatible_from: the oldest schema whose turbo may still run on the database once the file is applied.
alter table public.turbo_migrations add column if not exists compatible_from integer
