-- Whether the settler has anything to do: what it asks after a notification, because every worker of the fleet hears that. The poll asks
-- the same.
select public.turbo_unsettled()
