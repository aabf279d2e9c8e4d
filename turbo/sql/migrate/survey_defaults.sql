-- Adoption: the column defaults of a table, as text. May wait for a lock on the table.
select a.attname::text, pg_get_expr(d.adbin, d.adrelid)
  from pg_attrdef d
  join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
 where d.adrelid = to_regclass(%(table)s)
 order by a.attnum
