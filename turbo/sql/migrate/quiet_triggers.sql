-- Until this transaction ends no ordinary trigger fires: the backfill is no event for them.
select set_config('session_replication_role', 'replica', true)
