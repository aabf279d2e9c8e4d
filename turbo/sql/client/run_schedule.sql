-- Client.schedules.run: inserts a task of the schedule now, and leaves its slots alone; see turbo_run_schedule.
select public.turbo_run_schedule(%(name)s::text) as task_id
