-- Which database is this? Null: its identity was deleted. Called once at a worker's start, when the schema fits.
select public.turbo_database_id()
