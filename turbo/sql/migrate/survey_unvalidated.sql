-- Adoption: constraints of agent_tasks that were valid, were replaced, and are not validated again yet. turbo_meta exists.
select substr(m.key, length('unvalidated ') + 1) from public.turbo_meta m where starts_with(m.key, 'unvalidated ') order by 1
