-- Adoption: the CHECK constraints of a table, each with its expression and the columns it uses. May wait for a lock.
select c.conname::text as name, pg_get_expr(c.conbin, c.conrelid) as expression, c.convalidated as validated,
       c.connoinherit as no_inherit,
       array(select a.attname::text from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any (c.conkey)) as columns
  from pg_constraint c
 where c.conrelid = to_regclass(%(table)s) and c.contype = 'c'
 order by c.conname
