-- Settings of a migration's session. turbo's names are qualified, so a role's own search path must not redirect them.
-- A statement_timeout that a role or a database sets for ordinary work must not interrupt an index build.
select set_config('search_path', 'pg_catalog, pg_temp', false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', %(lock_timeout)s, false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('client_min_messages', 'warning', false)
