"""Fleets: one YAML names hosts and workers; files for launchd, systemd and Prometheus follow from it, and so do the commands.

model.py         fleet.yaml: its keys, and what no single key shows
secrets.py       what must not stand in it      readable.py  what it points to, where that can be read
instance.py      one worker process of it: arguments, environment, files
launchd.py       its plist                      launchd_keys.py  the keys of a plist, typed
systemd.py       its user unit
targets.py       Prometheus' file_sd targets
render.py        all of these, as files

shell.py         runs a line of sh on a host: here or over ssh, or only prints it
manager.py       what a service manager does for turbo
launchctl.py     launchd's                      systemctl.py  systemd's
operate.py       install, start, stop, uninstall
roll.py          restart: one worker at a time
presence.py      what agent_workers and /metrics know
standing.py      status: manager, agent_workers and /metrics side by side
"""
