-- Adoption: constraints of agent_tasks that were valid, were replaced, and have not been validated again. turbo_meta exists.
select substr(m.key, length('unvalidated ') + 1) from public.turbo_meta m where starts_with(m.key, 'unvalidated ') order by 1
