-- turbo: compatible-from 3
-- Holds the place of a migration that another branch brings.
do $$ begin end $$;
