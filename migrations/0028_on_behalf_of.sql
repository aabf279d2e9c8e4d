-- turbo: compatible-from 3
-- Who stands behind a change that a shared login made: detail.on_behalf_of of the audit trail. A program that acts for several people, as
-- the web page does, names the person in its session first: select set_config('turbo.on_behalf_of', 'alice', false). It is a label that
-- any session may write, and no proof; actor is still the login. Three functions write into the trail what a person changes, and each
-- names the application there; the person comes beside it. Their texts stay as they are otherwise. A worker's statements, which write
-- their own lines, cost nothing more.
do $$
declare
  one     record;
  changed integer := 0;
  named   constant text := $text$'application', nullif(current_setting('application_name'), '')$text$;
  person  constant text := $text$, 'on_behalf_of', nullif(left(current_setting('turbo.on_behalf_of', true), 200), '')$text$;
begin
  for one in
    select p.oid, p.proname, pg_catalog.pg_get_functiondef(p.oid) as definition
      from pg_catalog.pg_proc p
     where p.pronamespace = 'public'::regnamespace and p.proname in ('turbo_judge_update', 'turbo_note_delete', 'turbo_take_answer')
  loop
    if position('turbo.on_behalf_of' in one.definition) = 0 then
      if position(named in one.definition) = 0 then
        raise exception 'the function % is not the one that turbo made', one.proname using errcode = 'invalid_function_definition',
          hint = 'Restore it from the migrations of this turbo, and run turbo migrate again.';
      end if;
      execute replace(one.definition, named, named || person);
    end if;
    changed := changed + 1;
  end loop;
  if changed <> 3 then
    raise exception 'turbo has % of the three functions that write hand edits into the trail', changed using errcode = 'undefined_function',
      hint = 'Restore them from the migrations of this turbo, and run turbo migrate again.';
  end if;
end $$;
