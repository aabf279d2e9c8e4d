-- Does this index exist on this table? True: valid. False: INVALID, left by an interrupted build. No row: no such index.
select i.indisvalid
  from pg_index i
 where i.indexrelid = to_regclass(%(index)s) and i.indrelid = to_regclass(%(table)s)
