-- Adoption's backfill is done: no later run looks again.
insert into public.turbo_meta (key, value) values ('backfilled', 'true') on conflict (key) do nothing
