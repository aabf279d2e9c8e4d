-- Doctor: the database's clock, as Unix time.
select extract(epoch from clock_timestamp())::float8 as at
