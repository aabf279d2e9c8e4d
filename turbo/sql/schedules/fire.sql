-- Scheduler: fire what is due, or write down the next slot (turbo_fire in migrations/0018_schedules.sql). One transaction: a slot's task
-- and the move to the next slot are there both or neither, and of two workers one does it. Waits for no lock. Sent again after a lost
-- answer it does nothing, since the schedule has moved on.
select public.turbo_fire(%(due)s::jsonb, %(worker)s::text, %(now)s::timestamptz) as fired
