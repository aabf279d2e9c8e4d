-- Proof of delivery: one NOTIFY to the listener at each (re)connect, sent from another session.
select pg_notify(%(channel)s, %(payload)s)
