-- A migration's session. turbo's names are qualified, so a role's own search path must not lead them elsewhere; a time
-- limit that a role or a database sets for ordinary statements must not cut an index build short.
select set_config('search_path', 'pg_catalog, pg_temp', false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', %(lock_timeout)s, false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('client_min_messages', 'warning', false)
