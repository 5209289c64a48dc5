"""The interfaces of stores, the audit log and listeners."""
