-- Marks adoption's backfill as done: later runs skip it.
insert into public.turbo_meta (key, value) values ('backfilled', 'true') on conflict (key) do nothing
