-- Is this index there, on this table? True: whole. False: an attempt cut short left it behind INVALID. No row: no such index.
select i.indisvalid
  from pg_index i
 where i.indexrelid = to_regclass(%(index)s) and i.indrelid = to_regclass(%(table)s)
