-- Settings of a migration's session, after its search_path. A statement_timeout that a role or a database sets for ordinary work must not interrupt an index build, and no other setting
-- of theirs may change how a file is read or what the catalog shows.
select set_config('DateStyle', 'ISO', false), set_config('IntervalStyle', 'postgres', false),
       set_config('standard_conforming_strings', 'on', false), set_config('extra_float_digits', '1', false),
       set_config('array_nulls', 'on', false), set_config('quote_all_identifiers', 'off', false),
       set_config('row_security', 'on', false), set_config('default_transaction_isolation', 'read committed', false),
       set_config('default_transaction_deferrable', 'off', false), set_config('check_function_bodies', 'on', false),
       set_config('statement_timeout', '0', false), set_config('idle_session_timeout', '0', false),
       case when current_setting('transaction_timeout', true) <> '0'
            then set_config('transaction_timeout', '0', false) end,
       set_config('lock_timeout', %(lock_timeout)s, false),
       set_config('idle_in_transaction_session_timeout', '60s', false),
       set_config('client_min_messages', 'warning', false)
