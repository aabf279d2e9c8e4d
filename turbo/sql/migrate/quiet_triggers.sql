-- Until the end of this transaction nobody's triggers fire: the backfill is no event of theirs.
select set_config('session_replication_role', 'replica', true)
