"""A submitter's traps in schema public: functions and operators with the names that turbo's statements use, and overloads of
turbo's own functions, for every type that an argument of theirs may have.

They stand first on the database's search path, as a DBA of long ago may have left it, and PUBLIC may create in public, the
default before PostgreSQL 15. So every name that a session looks up on that path springs one.
"""

import re

import psycopg
from psycopg import conninfo, sql

SPRUNG = "a trap was sprung"

# Each operator and function of PostgreSQL's own, once more, and the pairs of types that it has none for.
_SET = """
do $do$
declare
  one record;
begin
  create sequence public.sprung;
  grant usage on sequence public.sprung to public;
  for one in
    select o.oprname, format_type(o.oprleft, null) as l, format_type(o.oprright, null) as r, format_type(o.oprresult, null) as res
      from pg_catalog.pg_operator o
     where o.oprnamespace = 'pg_catalog'::regnamespace and o.oprleft <> 0
       and o.oprname in ('=', '<>', '<', '<=', '>', '>=', '+', '-', '*', '/', '%', '||', '->', '->>', '#>>', '#>', '~', '!~',
                         '~~', '!~~', '~*', '!~*', '&', '|', '<<', '>>', '@>', '<@', '&&', '?')
       and o.oprresult::regtype::text not in ('anyelement')
    union all
    select n.name, a.t, b.t, n.res
      from (values ('=', 'boolean'), ('<>', 'boolean'), ('<', 'boolean'), ('>', 'boolean'), ('||', 'text'), ('~', 'boolean'),
                   ('~~', 'boolean'), ('+', 'bigint'), ('-', 'bigint'), ('->>', 'text')) n(name, res)
     cross join unnest(array['text', 'varchar', 'name', 'int2', 'int8', 'jsonb', 'timestamptz', 'interval', 'text[]',
                             'public.turbo_task_id', 'public.turbo_status']) a(t)
     cross join unnest(array['text', 'varchar', 'name', 'int4', 'int8', 'jsonb', 'timestamptz', 'interval', 'text[]',
                             'public.turbo_task_id', 'public.turbo_status']) b(t)
  loop
    begin
      execute format('create function public.trap(%s, %s) returns %s language plpgsql as
                      $f$ begin perform pg_catalog.nextval(''public.sprung''); raise ''a trap was sprung: %s''; end $f$',
                     one.l, one.r, one.res, replace(one.oprname, '%', '%%'));
    exception when others then null;
    end;
    begin
      execute format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.trap)', one.oprname, one.l, one.r);
    exception when others then null;
    end;
  end loop;
  for one in
    select p.proname, pg_get_function_identity_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as res
      from pg_catalog.pg_proc p
     where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.proname = any (%(names)s::text[])
  loop
    begin
      execute format('create function public.%I(%s) returns %s language plpgsql as
                      $f$ begin perform pg_catalog.nextval(''public.sprung''); raise ''a trap was sprung: %s''; end $f$',
                     one.proname, one.arguments, one.res, one.proname);
    exception when others then null;
    end;
  end loop;
end $do$
"""

# Of a call whose arguments are not of exactly the declared types, one of these fits as well or better.
_OVERLOADS = """
do $do$
declare
  ours record;
  kinds constant text[] := array['text', 'varchar', 'bpchar', 'name', '"char"', 'int4', 'int8', 'numeric', 'timestamptz', 'timestamp',
                                 'date', 'jsonb', 'uuid', 'anyelement', 'anynonarray', 'variadic text[]', 'variadic varchar[]',
                                 'variadic anyarray'];
  arguments text;
begin
  for ours in
    select p.proname, pg_get_function_result(p.oid) as res, p.pronargs
      from pg_catalog.pg_proc p
     where p.pronamespace = 'public'::regnamespace and p.proname ~ '^turbo_' and p.prorettype <> 'trigger'::regtype and p.pronargs > 0
  loop
    for arguments in
      select k.kind from unnest(kinds) k(kind) where ours.pronargs = 1
      union all
      select format('%s, %s', a.kind, b.kind) from unnest(kinds) a(kind) cross join unnest(kinds) b(kind) where ours.pronargs = 2
    loop
      begin
        execute format('create function public.%I(%s) returns %s language plpgsql as
                        $f$ begin perform pg_catalog.nextval(''public.sprung''); raise ''a trap was sprung: %s''; end $f$',
                       ours.proname, arguments, ours.res, ours.proname);
      exception when others then null;     -- turbo's own, or no list of arguments
      end;
    end loop;
  end loop;
end $do$
"""


def names_in(statements: list[str]) -> list[str]:
    """Everything that looks like a call in these statements."""
    return sorted({name for text in statements for name in re.findall(r"\b([a-z_0-9]+)\s*\(", text)})


def set_traps(admin: str, submitter: str, statements: list[str]) -> None:
    """As `submitter`, and have every new session of the database look in public first."""
    with psycopg.connect(submitter, autocommit=True) as db:
        literal = sql.Literal(names_in(statements)).as_string(db)
        db.execute(_SET.replace("%(names)s", literal).encode())
    with psycopg.connect(admin, autocommit=True) as db:
        name = sql.Identifier(str(conninfo.conninfo_to_dict(admin)["dbname"]))
        db.execute(sql.SQL("alter database {} set search_path = public, pg_catalog").format(name))


def overload(submitter: str) -> None:
    """Also set traps beside turbo's own functions. From now on `turbo migrate` refuses, and doctor fails."""
    with psycopg.connect(submitter, autocommit=True) as db:
        db.execute("set search_path to pg_catalog, pg_temp")
        db.execute(_OVERLOADS.encode())


def disarm(admin: str) -> None:
    """New sessions have the usual path again."""
    with psycopg.connect(admin, autocommit=True) as db:
        name = sql.Identifier(str(conninfo.conninfo_to_dict(admin)["dbname"]))
        db.execute(sql.SQL("alter database {} reset search_path").format(name))


def sprung(admin: str) -> int:
    """How many traps were sprung so far."""
    with psycopg.connect(conninfo.make_conninfo(admin, options="-c search_path=pg_catalog,pg_temp")) as db:
        (count,) = db.execute(
            "select case when is_called then last_value else 0 end from public.sprung"
        ).fetchone() or (0,)
        return int(count)
