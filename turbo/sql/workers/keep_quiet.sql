-- One step of the keeper of a quiet queue (turbo_keep_quiet, migrations/0029_quiet.sql). A lost mark or look costs time, no task: the
-- commit does not wait for the disk.
select k.kept, k.unsent, k.claims, k.woken, k.ended_below, k.begun_below
  from (select set_config('synchronous_commit', 'off', true)) s
 cross join lateral public.turbo_keep_quiet(%(queue)s::text, %(keeper)s::text, %(seconds)s::double precision, %(since)s::bigint) k
