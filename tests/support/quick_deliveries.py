"""Short leases and waits, for workers that a test kills often."""

from datetime import timedelta

from session_authority_workers import courier, deliver

deliver.LEASE_SECONDS = 1.0
deliver.RENEW_SECONDS = 0.3
courier.FIRST_WAIT = timedelta(seconds=0.4)
courier.LONGEST_PAUSE_SECONDS = 0.5
courier.LOOK_SECONDS = 0.1
