-- Adds what runs used to the budgets, closes those that are spent, and opens those whose period is over (turbo_fold in
-- migrations/0021_budgets.sql): what is open now, and null without budgets. 55P03: another fold is under way, or somebody has locked
-- the table; nothing has changed. now: the present, for tests; null: the clock.
select public.turbo_fold(%(now)s::text::timestamptz) as state
